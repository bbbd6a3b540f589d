// The list of a run's episodes, filtered by outcome and by words.

import { byId, el } from "./dom.js";

const MORE = 300;
const OUTCOMES = ["success", "failure", "crash", "unknown"];
const outcome = (episode) => episode.status || "unknown";

// scrollIntoView would also make this the place from which Tab goes on.
function reveal(box, node) {
  const [outer, inner] = [box.getBoundingClientRect(), node.getBoundingClientRect()];
  if (inner.top < outer.top) box.scrollTop -= outer.top - inner.top;
  if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom;
}

export class EpisodeList {
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.episodes = [];
    this.outcome = "";
    this.limit = MORE;
    byId("search").addEventListener("input", () => { this.limit = MORE; this.draw(); });
    byId("episodes").addEventListener("keydown", (event) => this.walk(event));
  }

  show(episodes, chosen) {
    Object.assign(this, { episodes, chosen });
    this.draw();
  }

  choose(key) {
    this.chosen = key;
    for (const button of byId("episodes").querySelectorAll("button[data-key]")) {
      const is = button.dataset.key === key;
      button.setAttribute("aria-current", is);
      if (is) reveal(byId("episodes"), button);
    }
  }

  matching() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    return this.episodes.filter((episode) => {
      if (this.outcome && outcome(episode) !== this.outcome) return false;
      const said = `${episode.task} ${episode.instruction} ${episode.variant} episode ${episode.episode} seed ${episode.seed} ${episode.episode === null ? episode.key : ""} ${episode.status}`.toLowerCase();
      return words.every((word) => said.includes(word));
    });
  }

  // The neighbour of the chosen one among those that are listed.
  neighbour(by) {
    const listed = this.matching();
    const at = listed.findIndex((episode) => episode.key === this.chosen);
    return listed[at < 0 ? 0 : at + by];
  }

  draw() {
    const counts = new Map();
    for (const episode of this.episodes) counts.set(outcome(episode), (counts.get(outcome(episode)) ?? 0) + 1);
    const chips = ["", ...OUTCOMES.filter((name) => counts.has(name))];
    if (!chips.includes(this.outcome)) this.outcome = "";
    const focused = document.activeElement?.dataset?.outcome;
    byId("outcomes").replaceChildren(...chips.map((name) => el("button", {
      type: "button", class: `chip ${name}`, "aria-pressed": String(name === this.outcome), "data-outcome": name,
      onclick: () => { this.outcome = name; this.limit = MORE; this.draw(); },
    }, `${name || "all"} `, el("small", {}, `${name ? counts.get(name) : this.episodes.length}`))));
    if (focused !== undefined) byId("outcomes").querySelector(`[data-outcome="${focused}"]`)?.focus();
    const found = this.matching();
    byId("episodes").replaceChildren(
      ...found.slice(0, this.limit).map((episode) => el("li", {}, el("button", {
        type: "button", "data-key": episode.key, "aria-current": String(episode.key === this.chosen), onclick: () => this.onChoose(episode.key),
      },
      el("i", { class: `mark ${episode.status}`, "aria-hidden": "true" }),
      el("span", { class: "name" }, episode.task || episode.key),
      el("span", { class: "number" }, `${episode.episode ?? ""}`),
      el("span", { class: "hidden" }, ` ${outcome(episode)}`),
      el("small", {}, [episode.seed === null ? "" : `seed ${episode.seed}`, episode.traced === episode.inferences ? `${episode.inferences} inferences` : `${episode.traced} of ${episode.inferences} traced`].filter(Boolean).join(" · ")))),
      ),
    );
    if (found.length > this.limit) byId("episodes").append(el("li", {}, el("button", { type: "button", class: "more", onclick: () => { this.limit += MORE; this.draw(); } }, `${found.length - this.limit} more`)));
    if (!found.length) byId("episodes").append(el("li", { class: "none" }, this.episodes.length ? "No episode matches." : "No episode yet."));
  }

  walk(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    const buttons = [...byId("episodes").querySelectorAll("button")];
    buttons[buttons.indexOf(document.activeElement) + by]?.focus();
    event.preventDefault();
  }
}
