// What is shown, as the part of the address behind "#": a link leads to the same view.

const DEFAULTS = { run: 0, episode: "", step: 0, overlay: "kept", layer: "", head: "mean", opacity: "", beside: "", tolerance: "0.1" };

export function read() {
  const said = new URLSearchParams(location.hash.slice(1));
  const state = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) if (said.has(name)) state[name] = said.get(name);
  state.run = Number(state.run) || 0;
  state.step = Number(state.step) || 0;
  return state;
}

export function write(state) {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (state[name] !== undefined && String(state[name]) !== String(value)) said.set(name, state[name]);
  }
  const hash = `#${said}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
}
