// The page: what is shown, and what happens when a key is pressed or something is chosen.

import * as api from "./api.js";
import { Chart, before, short } from "./charts.js";
import { byId, el, options } from "./dom.js";
import { EpisodeList } from "./episodes.js";
import * as link from "./link.js";
import { LABELS, Pane, exported } from "./pane.js";

const FRESH_MS = 5000;
const PLAY_MS = 200;
const STAGES = ["vision", "prune", "prefill", "denoise"];
const COLORS = 6;
const TOLERANCES = [0.01, 0.05, 0.1, 0.25, 0.5];
const KEYS = [
  ["← →", "an inference back or on; with Shift ten"], ["Home End", "first, last inference"], ["Space", "play, stop"],
  ["[ ]", "episode before, after"], ["c k s a", "camera, kept patches, score, attention"], ["l  Shift+l", "next, previous layer"],
  ["h  Shift+h", "next, previous head"], ["+ −", "opacity"], ["b", "another run beside it, or none"], ["p", "to where the actions part"],
  ["e", "save the pictures"], ["/", "search"], ["?", "these keys"],
];

const state = link.read();
let about;
let panes = [];
let list;
let charts;
let steps = [];
let playing = null;
let parted = null;
let opened = 0;
const opacity = {};

function trouble(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = !text;
}

const guarded = (work) => async (...given) => {
  try {
    return await work(...given);
  } catch (error) {
    trouble(error.message);
  }
};

// ---------------------------------------------------------------- what is shown

const look = () => ({ overlay: state.overlay, layer: state.layer, head: state.head, opacity });

async function told(run, key) {
  return { run, key, told: await api.moments({ run, key }) };
}

// The episode of another run in the same scene: its seed, where seeds are known, else its number.
async function twin(run, one) {
  const { episodes } = await api.run(run);
  const same = (other) => other.task === one.task && (one.seed !== null && other.seed !== null ? other.seed === one.seed : other.episode === one.episode);
  return episodes.find(same);
}

const openRun = guarded(async (run, key) => {
  state.run = run;
  byId("run").value = run;
  const { episodes, warnings } = await api.run(run);
  trouble(warnings.join(" "));
  list.show(episodes, key);
  const first = episodes.find((episode) => episode.key === key) ?? episodes.find((episode) => episode.traced) ?? episodes[0];
  if (!first) {
    panes = [];
    byId("panes").replaceChildren(el("p", { class: "empty" }, "This run has no episode yet. It is looked at again every few seconds."));
    return;
  }
  if (key && first.key !== key) trouble(`This run has no episode ${key}; the first one is shown.`);
  await openEpisode(first.key, key === first.key ? state.step : 0);
});

const openEpisode = guarded(async (key, step = 0) => {
  const turn = ++opened;
  stop();
  const shown = [await told(state.run, key)];
  let note = "";
  if (state.beside !== "") {
    const run = Number(state.beside);
    const other = await twin(run, shown[0].told);
    if (other) shown.push(await told(run, other.key));
    else note = `${about.runs[run]?.name ?? "That run"} has not played this scene (${shown[0].told.task}, seed ${shown[0].told.seed ?? "not known"}).`;
  }
  if (turn !== opened) return;
  trouble(note);
  state.episode = key;
  list.choose(key);
  panes = shown.map((episode) => {
    const pane = new Pane(about);
    pane.open(episode);
    return pane;
  });
  byId("panes").replaceChildren(...panes.map((pane) => pane.node));
  byId("panes").classList.toggle("two", panes.length === 2);
  retime();
  forgetCheck();
  byId("parting").hidden = true;
  parted = null;
  drawCharts([]);
  await go(step);
  // The dumps are opened for the actions when the first pictures stand.
  const courses = await Promise.all(shown.map((episode) => api.actions(episode)));
  if (turn !== opened) return;
  drawCharts(courses);
  await findParting();
});

function retime() {
  steps = [...new Set(panes.flatMap((pane) => pane.episode.told.steps))].sort((a, b) => a - b);
  byId("time").max = Math.max(0, steps.length - 1);
}

const at = () => Math.max(0, before(steps, state.step));

async function go(step) {
  if (!panes.length) return;
  const were = state.step;
  state.step = steps.length ? steps[Math.max(0, before(steps, step))] : 0;
  if (state.step !== were) forgetCheck();
  const n = at();
  byId("time").value = n;
  byId("time").setAttribute("aria-valuetext", `step ${state.step}, inference ${n + 1} of ${steps.length}`);
  byId("at").textContent = `step ${state.step}`;
  for (const chart of Object.values(charts)) chart.point(state.step);
  link.write(state);
  await Promise.all(panes.map((pane) => pane.show(state.step, look())));
  tools();
}

const walk = (by) => go(steps[Math.min(steps.length - 1, Math.max(0, at() + by))] ?? 0);

const nearest = (step) => {
  const n = Math.max(0, before(steps, step));
  return n + 1 < steps.length && steps[n + 1] - step < step - steps[n] ? steps[n + 1] : steps[n];
};

function stop() {
  clearTimeout(playing);
  playing = null;
  byId("play").setAttribute("aria-pressed", "false");
  byId("play").textContent = "Play";
}

function play() {
  if (playing !== null) return stop();
  byId("play").setAttribute("aria-pressed", "true");
  byId("play").textContent = "Stop";
  const turn = async () => {
    if (at() >= steps.length - 1) return stop();
    const began = performance.now();
    await walk(1);
    if (playing !== null) playing = setTimeout(turn, Math.max(0, PLAY_MS - (performance.now() - began)));
  };
  playing = setTimeout(turn, 0);
  if (at() >= steps.length - 1) go(steps[0]);
}

// ---------------------------------------------------------------- tools

function tools() {
  const frame = panes.map((pane) => pane.frame).find(Boolean);
  for (const button of byId("overlays").children) {
    button.setAttribute("aria-pressed", String(button.value === state.overlay));
    button.disabled = Boolean(frame) && !panes.some((pane) => pane.frame && pane.can(button.value));
  }
  const attention = state.overlay === "attention" && frame;
  byId("layer-field").hidden = byId("head-field").hidden = !attention;
  byId("opacity-field").hidden = state.overlay === "camera";
  if (attention) {
    const layers = Object.keys(frame.attention);
    if (!layers.includes(String(state.layer))) state.layer = layers.at(-1) ?? "";
    const heads = frame.attention[state.layer] ?? 0;
    if (state.head !== "mean" && !(Number(state.head) < heads)) state.head = "mean";
    options(byId("layer"), layers.map((layer) => [layer, layer]), state.layer);
    options(byId("head"), [["mean", "mean"], ...Array.from({ length: heads }, (_, i) => [String(i), String(i)])], state.head);
  }
  byId("opacity").value = Math.round(100 * (opacity[state.overlay] ?? 0));
  byId("save").disabled = byId("check-ask").disabled = !frame;
  link.write(state);
}

function relook(change) {
  Object.assign(state, change);
  state.opacity = "";
  return go(state.step);
}

function fade(value) {
  if (state.overlay === "camera") return;
  opacity[state.overlay] = Math.min(1, Math.max(0, value));
  state.opacity = opacity[state.overlay].toFixed(2);
  for (const pane of panes) if (pane.frame) pane.draw(pane.frame, pane.sources, pane.heat, pane.wanted, look());
  tools();
}

const cycle = (select, by) => {
  const { options: choices, selectedIndex } = select;
  select.selectedIndex = (selectedIndex + by + choices.length) % choices.length;
  select.dispatchEvent(new Event("change"));
};

const save = guarded(async () => {
  const detail = state.overlay === "attention" ? `attention, layer ${state.layer}, ${state.head === "mean" ? "mean over heads" : `head ${state.head}`}` : LABELS[state.overlay].toLowerCase();
  const names = panes.filter((pane) => pane.frame).map((pane) => `${about.runs[pane.episode.run].name}_${pane.frame.name}`);
  const anchor = el("a", { href: URL.createObjectURL(await exported(panes, detail)), download: `${[...names, state.overlay].join("_").replace(/[^\w.-]+/g, "-")}.png` });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
});

// ---------------------------------------------------------------- numbers over time

function drawCharts(courses) {
  const end = Math.max(...panes.map((pane) => pane.episode.told.length ?? 0), steps.at(-1) ?? 0, 1);
  const range = [0, end];
  const kept = [];
  const ms = [];
  const actions = [];
  panes.forEach((pane, p) => {
    const { told } = pane.episode;
    const series = Object.keys(told.series).length ? told.series : courses[p]?.series ?? {};
    const name = panes.length === 1 ? "" : ` ${p === 0 ? "left" : "right"}`;
    const dashed = p === 1;
    if (series.num_kept) kept.push({ name: `kept${name}`, color: `c${p}`, steps: told.steps, values: series.num_kept, dashed });
    if (p === 0 && series.num_patches) kept.push({ name: "of", color: "soft", steps: told.steps, values: series.num_patches, dashed: true });
    if (panes.length === 1) {
      const parts = STAGES.filter((stage) => series[`${stage}_ms`]);
      ms.push(...parts.map((stage) => ({ name: stage, color: `s${STAGES.indexOf(stage)}`, steps: told.steps, values: series[`${stage}_ms`], area: true })));
    }
    if (series.total_ms) ms.push({ name: `total${name}`, color: panes.length === 1 ? "ink" : `c${p}`, steps: told.steps, values: series.total_ms, dashed });
    courses[p]?.actions.forEach((values, i) => actions.push({ name: p === 0 ? `${i}` : `${i} right`, color: `c${i % COLORS}`, steps: courses[p].steps, values, dashed }));
  });
  charts.kept.show(kept, range);
  charts.ms.show(ms, range);
  charts.actions.show(actions, range);
  charts.difference.show([], range);
  for (const chart of Object.values(charts)) chart.point(state.step);
  const problems = courses.flatMap((course) => course.problems);
  if (problems.length) trouble(`${problems.length} of the dumps cannot be read: ${problems[0]}`);
}

const findParting = guarded(async () => {
  parted = null;
  byId("parting").hidden = panes.length < 2;
  if (panes.length < 2) return;
  const [a, b] = panes.map((pane) => pane.episode);
  parted = await api.parting(a, b, state.tolerance);
  const share = `${Math.round(100 * state.tolerance)} % of its range`;
  byId("parting-said").textContent = !parted.steps.length ? "The actions cannot be compared: these dumps hold none, or none of the same steps and length."
    : parted.step === null ? `No action differs by more than ${share} in the ${parted.steps.length} steps that both have.`
    : `The actions part at step ${parted.step}: number ${parted.number} differs by more than ${share}.`;
  byId("parting-go").hidden = parted.step === null;
  const end = charts.kept.range;
  charts.difference.show(parted.steps.length ? [{ name: "largest", color: "c3", steps: parted.steps, values: parted.difference }] : [], end, { line: Number(state.tolerance), marks: parted.step === null ? [] : [parted.step] });
  charts.difference.point(state.step);
});

// ---------------------------------------------------------------- causal check

// It was of another inference.
function forgetCheck() {
  byId("check-result").replaceChildren();
  byId("check-said").textContent = "";
}

const ask = guarded(async () => {
  const [pane] = panes;
  const said = byId("check-said");
  const asked = state.step;
  said.textContent = "The policy is asked again …";
  byId("check-ask").disabled = true;
  try {
    const { cases, reference } = await api.check(pane.episode, pane.n);
    if (pane !== panes[0] || asked !== state.step) return;
    const top = Math.max(...cases.map((one) => one.rms), 1e-9);
    said.textContent = reference === null ? "" : `With the pictures as they are, the answer differs by ${short(reference)} (RMS) from the recorded one.`;
    byId("check-result").replaceChildren(el("table", {},
      el("thead", {}, el("tr", {}, ...["Covered", "of the pictures", "change of the actions (RMS)", ""].map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, ...cases.map((one) => {
        const bar = el("i", { class: "bar" });
        bar.style.width = `${(100 * one.rms) / top}%`;
        return el("tr", {}, el("th", { scope: "row" }, one.name), el("td", {}, `${(100 * one.area).toFixed(0)} %`), el("td", {}, one.rms.toPrecision(3)), el("td", { class: "bars" }, bar));
      }))));
  } catch (error) {
    said.textContent = error.message;
  } finally {
    byId("check-ask").disabled = false;
  }
});

// ---------------------------------------------------------------- a run that is being written

const refresh = guarded(async () => {
  if (document.hidden || !about) return;
  const { episodes, warnings } = await api.run(state.run);
  if (JSON.stringify(episodes) !== JSON.stringify(list.episodes)) {
    const focused = document.activeElement?.dataset?.key;
    list.show(episodes, state.episode);
    if (focused) byId("episodes").querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }
  if (!panes.length) return episodes.length ? openRun(state.run, "") : undefined;
  const grown = await Promise.all(panes.map(async ({ episode }) => {
    const now = await told(episode.run, episode.key);
    return now.told.inferences !== episode.told.inferences || now.told.status !== episode.told.status ? now : null;
  }));
  if (grown.some(Boolean)) {
    const turn = opened;
    grown.forEach((now, p) => now && panes[p].open(now));
    retime();
    const courses = await Promise.all(panes.map(({ episode }) => api.actions(episode)));
    if (turn !== opened) return;
    drawCharts(courses);
    await go(state.step);
    await findParting();
  } else if (warnings.length) trouble(warnings.join(" "));
});

// ---------------------------------------------------------------- keys

function onKey(event) {
  const { target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const typing = target.matches?.("input[type=search], select");
  if (event.key === "Escape" && typing) return target.blur();
  if (typing) return;
  const range = target.matches?.("input[type=range]");
  const inList = target.closest?.("#episodes");
  const overlays = { c: "camera", k: "kept", s: "score", a: "attention" };
  const actions = {
    ArrowLeft: () => walk(event.shiftKey ? -10 : -1), ArrowRight: () => walk(event.shiftKey ? 10 : 1),
    Home: () => go(steps[0] ?? 0), End: () => go(steps.at(-1) ?? 0),
    "[": () => step(-1), "]": () => step(1),
    l: () => cycle(byId("layer"), 1), L: () => cycle(byId("layer"), -1), h: () => cycle(byId("head"), 1), H: () => cycle(byId("head"), -1),
    "+": () => fade((opacity[state.overlay] ?? 0) + 0.1), "-": () => fade((opacity[state.overlay] ?? 0) - 0.1),
    b: () => cycle(byId("beside"), 1), p: () => parted?.step !== null && parted && go(nearest(parted.step)), e: save,
    "/": () => byId("search").focus(), "?": () => byId("help").showModal(),
  };
  if (event.key in overlays) actions[event.key] = () => { const button = byId("overlays").querySelector(`[value=${overlays[event.key]}]`); if (!button.disabled) relook({ overlay: overlays[event.key] }); };
  if (event.key === " " && !target.matches?.("button, a")) actions[" "] = play;
  if (target.id === "opacity" && /^(Arrow|Home|End)/.test(event.key)) return;
  if (inList && /^(Home|End)$/.test(event.key)) return;
  const act = actions[event.key];
  if (!act) return;
  event.preventDefault();
  if (range) target.focus();
  guarded(act)();
}

function step(by) {
  const next = list.neighbour(by);
  if (next) openEpisode(next.key);
}

// ---------------------------------------------------------------- start

const start = guarded(async () => {
  about = await api.about();
  Object.assign(opacity, { kept: 1, score: about.strength, attention: about.strength });
  if (state.opacity !== "" && state.overlay !== "camera") opacity[state.overlay] = Number(state.opacity);
  if (!(state.overlay in LABELS)) state.overlay = "kept";
  list = new EpisodeList((key) => openEpisode(key));
  options(byId("run"), about.runs.map((run, i) => [i, run.name]), state.run);
  if (!about.runs[state.run]) state.run = 0;
  byId("run").title = about.runs.map((run) => run.folder).join("\n");
  byId("run").addEventListener("change", (event) => openRun(Number(event.target.value), ""));
  options(byId("beside"), [["", "no other run"], ...about.runs.map((run, i) => [String(i), run.name])], state.beside);
  byId("beside").parentElement.hidden = about.runs.length < 2;
  byId("beside").addEventListener("change", (event) => { state.beside = event.target.value; openEpisode(state.episode, state.step); });
  byId("overlays").replaceChildren(...Object.entries(LABELS).map(([value, label]) => el("button", { type: "button", value, "aria-pressed": "false", onclick: () => relook({ overlay: value }) }, label)));
  byId("layer").addEventListener("change", (event) => relook({ layer: event.target.value }));
  byId("head").addEventListener("change", (event) => relook({ head: event.target.value }));
  byId("opacity").addEventListener("input", (event) => fade(event.target.value / 100));
  byId("time").addEventListener("input", (event) => guarded(go)(steps[event.target.value] ?? 0));
  byId("play").addEventListener("click", play);
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); byId("time").focus(); });
  byId("save").addEventListener("click", save);
  options(byId("tolerance"), TOLERANCES.map((share) => [share, `${100 * share} %`]), state.tolerance);
  byId("tolerance").addEventListener("change", (event) => { state.tolerance = event.target.value; link.write(state); findParting(); });
  byId("parting-go").addEventListener("click", () => parted && guarded(go)(nearest(parted.step)));
  byId("check").hidden = !about.can_check;
  byId("check-ask").addEventListener("click", ask);
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("keys").replaceChildren(...KEYS.flatMap(([key, what]) => [el("dt", {}, key), el("dd", {}, what)]));
  const onSeek = (to) => guarded(go)(nearest(to));
  charts = {
    kept: new Chart({ title: "Visual tokens kept", low: 0, onSeek }),
    ms: new Chart({ title: "Latency", unit: "ms", low: 0, onSeek }),
    actions: new Chart({ title: "Actions", unit: "by number", height: 130, onSeek }),
    difference: new Chart({ title: "Difference of the actions", unit: "share of the range", low: 0, height: 84, onSeek }),
  };
  byId("charts").replaceChildren(...Object.values(charts).map((chart) => chart.node));
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => { Object.assign(state, link.read()); byId("beside").value = state.beside; openRun(state.run, state.episode); });
  await openRun(state.run, state.episode);
  document.documentElement.dataset.ready = "true";
  setInterval(refresh, FRESH_MS);
});

start();
