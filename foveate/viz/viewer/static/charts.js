// Small charts over the steps of an episode, with a cursor; a click or a drag goes to that time.

import { el, svg } from "./dom.js";

const MARGIN = { left: 46, right: 10, top: 8, bottom: 20 };

function ticks(low, high, count) {
  const span = high - low || 1;
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(Math.abs(value) < step * 1e-6 ? 0 : value);
  return found;
}

export const short = (value) => (value === null || value === undefined ? "–" : Number.isInteger(value) ? `${value}` : Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(2));

// The last entry at or before a step; steps ascend.
export function before(steps, step) {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

// series: [{name, color, steps, values, dashed, area}]; areas are stacked. onSeek gets a step.
export class Chart {
  constructor({ title, unit = "", height = 96, low = null, onSeek }) {
    Object.assign(this, { title, unit, height, low });
    this.plot = svg("svg", { class: "plot", role: "img", "aria-label": title });
    this.legend = el("div", { class: "legend" });
    this.node = el("figure", { class: "chart" }, el("figcaption", {}, el("b", {}, title), unit ? el("small", {}, ` ${unit}`) : null, this.legend), this.plot);
    const seek = (event) => {
      const x = event.clientX - this.plot.getBoundingClientRect().left;
      onSeek(this.stepAt(x));
    };
    this.plot.addEventListener("pointerdown", (event) => { this.plot.setPointerCapture(event.pointerId); seek(event); });
    this.plot.addEventListener("pointermove", (event) => { if (event.buttons) seek(event); });
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.series = [];
    this.range = [0, 1];
  }

  show(series, range, { marks = [], line = null } = {}) {
    Object.assign(this, { series, range, marks, line });
    this.node.hidden = series.length === 0;
    this.draw();
  }

  stepAt(x) {
    const width = this.plot.clientWidth - MARGIN.left - MARGIN.right;
    const [from, to] = this.range;
    return from + Math.min(1, Math.max(0, (x - MARGIN.left) / width)) * (to - from);
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width || !this.series.length) return;
    const { height } = this;
    const stacked = [];
    const tops = new Map();
    for (const line of this.series) {
      if (!line.area) { stacked.push({ ...line, base: null }); continue; }
      const base = line.steps.map((step) => tops.get(step) ?? 0);
      const values = line.values.map((value, i) => base[i] + (value ?? 0));
      line.steps.forEach((step, i) => tops.set(step, values[i]));
      stacked.push({ ...line, base, values });
    }
    const all = stacked.flatMap((line) => [...line.values, ...(line.base ?? [])]).filter((value) => value !== null && value !== undefined);
    if (this.line !== null && this.line !== undefined) all.push(this.line * 1.3);
    let low = this.low ?? all.reduce((a, b) => Math.min(a, b), Infinity);
    let high = all.reduce((a, b) => Math.max(a, b), -Infinity);
    if (!(high > low)) high = low + 1;
    const room = (high - low) * 0.06;
    high += room;
    if (this.low === null) low -= room;
    const [from, to] = this.range;
    const x = (step) => MARGIN.left + ((step - from) / (to - from || 1)) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => height - MARGIN.bottom - ((value - low) / (high - low)) * (height - MARGIN.top - MARGIN.bottom);
    const parts = [];
    for (const value of ticks(low, high, 3)) {
      parts.push(svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }));
      parts.push(svg("text", { class: "tick", x: MARGIN.left - 7, y: y(value) + 4, "text-anchor": "end" }, `${+value.toPrecision(6)}`));
    }
    for (const step of ticks(from, to, Math.max(2, Math.min(10, width / 90)))) {
      if (Number.isInteger(step)) parts.push(svg("text", { class: "tick", x: x(step), y: height - 4, "text-anchor": "middle" }, `${step}`));
    }
    for (const line of stacked) {
      let path = "";
      let open = false;
      line.steps.forEach((step, i) => {
        const value = line.values[i];
        if (value === null || value === undefined) { open = false; return; }
        path += `${open ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
        open = true;
      });
      if (line.area) {
        const back = line.steps.map((step, i) => `L${x(step).toFixed(1)} ${y(line.base[i]).toFixed(1)}`).reverse().join("");
        parts.push(svg("path", { class: `area ${line.color}`, d: `${path}${back}Z` }));
      } else {
        parts.push(svg("path", { class: `line ${line.color}${line.dashed ? " dashed" : ""}`, d: path }));
        if (line.steps.length === 1) parts.push(svg("circle", { class: `dot ${line.color}`, cx: x(line.steps[0]), cy: y(line.values[0]), r: 2.5 }));
      }
    }
    if (this.line !== null && this.line !== undefined) parts.push(svg("line", { class: "threshold", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(this.line), y2: y(this.line) }));
    for (const step of this.marks ?? []) parts.push(svg("line", { class: "parted", x1: x(step), x2: x(step), y1: MARGIN.top, y2: height - MARGIN.bottom }));
    this.cursor = svg("line", { class: "cursor", y1: MARGIN.top - 4, y2: height - MARGIN.bottom + 4 });
    this.plot.setAttribute("height", height);
    this.plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.plot.replaceChildren(...parts, this.cursor);
    this.x = x;
    if (this.step !== undefined) this.point(this.step);
  }

  point(step) {
    this.step = step;
    if (!this.cursor || !this.x) return;
    this.cursor.setAttribute("x1", this.x(step));
    this.cursor.setAttribute("x2", this.x(step));
    this.legend.replaceChildren(...this.series.map((line) => {
      const at = before(line.steps, step);
      return el("span", {}, el("i", { class: `key ${line.color}${line.dashed ? " dashed" : ""}` }), `${line.name} `, el("b", {}, at < 0 ? "–" : short(line.values[at])));
    }));
  }
}
