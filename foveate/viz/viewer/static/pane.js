// The pictures of one inference of one episode, with an overlay.

import * as api from "./api.js";
import { before } from "./charts.js";
import { el } from "./dom.js";
import { blank, drawHeat, drawKept } from "./overlay.js";

export const LABELS = { camera: "Camera", kept: "Kept", score: "Score", attention: "Attention" };

export class Pane {
  constructor(about) {
    this.about = about;
    this.title = el("h2");
    this.facts = el("p", { class: "facts" });
    this.note = el("p", { class: "note", role: "status" });
    this.views = el("div", { class: "views" });
    this.scale = el("div", { class: "scale", hidden: true });
    this.node = el("article", { class: "pane" }, this.title, this.facts, this.note, this.views, this.scale);
    this.asked = 0;
  }

  // episode: {run, key} with its moments in `episode.told`.
  open(episode) {
    this.episode = episode;
    this.frame = null;
    const { told } = episode;
    const where = this.about.runs[episode.run].name;
    this.title.replaceChildren(`${told.task || told.key}`, el("small", {}, ` episode ${told.episode ?? told.key} · ${told.variant || where}`));
    this.facts.replaceChildren(
      told.status ? el("span", { class: `badge ${told.status}` }, told.status) : el("span", { class: "badge" }, "outcome not known"),
      told.instruction ? el("q", {}, told.instruction) : "",
      told.seed === null ? "" : el("span", {}, `seed ${told.seed}`),
      el("span", {}, told.length === null ? `${told.inferences} inferences` : `${told.length} steps, ${told.inferences} inferences`),
    );
  }

  index(step) {
    return Math.max(0, before(this.episode.told.steps, step));
  }

  // Draws what is shown at a step; resolves when it stands, or something newer has been asked for.
  async show(step, look) {
    const asked = ++this.asked;
    const n = this.index(step);
    try {
      if (!this.episode.told.steps.length) throw new Error("No inference of this episode is known yet.");
      if (!this.episode.told.dumps[n]) throw new Error("This inference was not traced: there is no dump of it, so only its numbers are shown.");
      const frame = await api.frame(this.episode, n);
      const wanted = this.can(look.overlay, frame) ? look.overlay : "camera";
      const layers = Object.keys(frame.attention);
      const layer = layers.includes(String(look.layer)) ? look.layer : layers.at(-1);
      const head = Number(look.head) < frame.attention[layer] ? look.head : "mean";
      const [heat, ...sources] = await Promise.all([
        wanted === "score" || wanted === "attention" ? api.heat(this.episode, n, { overlay: wanted, layer, head }) : null,
        ...frame.views.map((view, i) => (view.picture ? api.picture(this.episode, n, i).catch((error) => { frame.problems = [...new Set([...frame.problems, error.message])]; return blank(view.size); }) : blank(view.size))),
      ]);
      if (asked !== this.asked) return;
      Object.assign(this, { frame, n, heat, wanted });
      this.sources = sources;
      this.draw(frame, sources, heat, wanted, look);
      const lacking = wanted === look.overlay ? "" : `This inference has no ${look.overlay === "kept" ? "keep mask" : look.overlay} to show.`;
      this.say([lacking, ...frame.problems].filter(Boolean).join(" "));
      for (const next of [n + 1, n - 1]) this.fetchAhead(next, wanted, layer, head);
    } catch (error) {
      if (asked !== this.asked) return;
      this.frame = null;
      this.n = n;
      this.views.replaceChildren();
      this.scale.hidden = true;
      this.say(error.message);
    }
  }

  can(overlay, frame = this.frame) {
    if (!frame || overlay === "camera") return true;
    return { kept: frame.keep !== null, score: frame.scores, attention: Object.keys(frame.attention).length > 0 }[overlay];
  }

  fetchAhead(n, overlay, layer, head) {
    if (!this.episode.told.dumps[n]) return;
    api.frame(this.episode, n).then((frame) => Promise.all([
      ...frame.views.map((view, i) => view.picture && api.picture(this.episode, n, i)),
      this.can(overlay, frame) && overlay !== "camera" && overlay !== "kept" && (overlay === "score" || layer in frame.attention) && api.heat(this.episode, n, { overlay, layer, head }),
    ])).catch(() => {});
  }

  draw(frame, sources, heat, overlay, look) {
    if (this.views.childElementCount !== frame.views.length) {
      this.views.replaceChildren(...frame.views.map(() => el("figure", {}, el("canvas", { role: "img" }), el("figcaption"))));
    }
    frame.views.forEach((view, i) => {
      const [canvas, caption] = this.views.children[i].children;
      const source = sources[i];
      // A picture of another size than its grid was told for is shown as it is.
      const fits = source.width === view.columns.length && source.height === view.rows.length;
      const drawn = !fits || overlay === "camera" ? source
        : overlay === "kept" ? drawKept(source, view, frame.keep, this.about.dim, look.opacity.kept)
        : drawHeat(source, view, heat, this.about.palettes[heat.colors], look.opacity[overlay]);
      Object.assign(canvas, { width: source.width, height: source.height });
      canvas.getContext("2d").putImageData(drawn, 0, 0);
      const kept = frame.keep === null ? "" : `${frame.kept[view.name]} of ${view.grid[0] * view.grid[1]} kept`;
      canvas.setAttribute("aria-label", `${view.name}, ${LABELS[overlay].toLowerCase()}${kept && `, ${kept}`}`);
      caption.replaceChildren(el("b", {}, view.name), view.picture ? kept : `no picture ${kept && `· ${kept}`}`);
    });
    this.scale.hidden = heat === null;
    if (heat !== null) {
      if (!this.ramp) this.scale.append(this.lowest = el("span"), this.ramp = el("canvas", { width: 256, height: 1, "aria-hidden": "true" }), this.highest = el("span"));
      this.lowest.textContent = small(heat.low);
      this.highest.textContent = small(heat.high);
      const ramp = new ImageData(256, 1);
      this.about.palettes[heat.colors].forEach((color, i) => ramp.data.set([...color, 255], 4 * i));
      this.ramp.getContext("2d").putImageData(ramp, 0, 0);
    }
  }

  say(text) {
    this.note.textContent = text;
    this.note.hidden = !text;
  }
}

const small = (value) => (value && (Math.abs(value) < 0.01 || Math.abs(value) >= 1000) ? value.toPrecision(2) : value.toFixed(2));

// The shown pictures of all panes as one PNG, on paper, with a caption.
export function exported(panes, caption) {
  const rows = panes.filter((pane) => pane.frame).map((pane) => ({ pane, canvases: [...pane.views.querySelectorAll("canvas")] }));
  const gap = 12;
  const height = Math.max(320, ...rows.flatMap(({ canvases }) => canvases.map((canvas) => canvas.height)));
  const widths = rows.map(({ canvases }) => canvases.map((canvas) => Math.round((canvas.width * height) / canvas.height)));
  const width = Math.max(420, ...widths.map((row) => row.reduce((sum, one) => sum + one + gap, gap)));
  const canvas = new OffscreenCanvas(width, 34 + rows.length * (height + 44));
  const context = canvas.getContext("2d");
  context.fillStyle = "#faf9f6";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#1d2126";
  context.font = "600 15px system-ui, sans-serif";
  context.fillText(caption, gap, 23, width - 2 * gap);
  context.font = "13px system-ui, sans-serif";
  rows.forEach(({ pane, canvases }, r) => {
    let x = gap;
    const y = 34 + r * (height + 44);
    canvases.forEach((drawn, i) => {
      context.drawImage(drawn, x, y, widths[r][i], height);
      x += widths[r][i] + gap;
    });
    context.fillText(`${pane.title.textContent} · step ${pane.episode.told.steps[pane.n]}`, gap, y + height + 20, width - 2 * gap);
  });
  return canvas.convertToBlob({ type: "image/png" });
}
