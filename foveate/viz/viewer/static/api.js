// What the server knows, asked for once and kept while it is likely to be looked at again.

const KEPT = 160;
const kept = new Map();

async function ask(path, how) {
  let answer;
  try {
    answer = await fetch(path, how);
  } catch {
    throw new Error("The viewer has ended; start `foveate view` again.");
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.error ?? `${path}: ${answer.status}`);
  }
  return answer;
}

function remembered(path, make) {
  if (!kept.has(path)) {
    const made = make(path);
    made.catch(() => kept.delete(path));
    kept.set(path, made);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  } else {
    const made = kept.get(path);
    kept.delete(path);
    kept.set(path, made);
  }
  return kept.get(path);
}

const json = async (path) => (await ask(path)).json();
const at = ({ run, key }) => `/api/runs/${run}/episodes/${key.split("/").map(encodeURIComponent).join("/")}`;

// The pixels of a picture, as ImageData.
async function pixels(path) {
  const bitmap = await createImageBitmap(await (await ask(path)).blob());
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

export const about = () => json("/api");
export const run = (number) => json(`/api/runs/${number}`);
export const moments = (episode) => json(`${at(episode)}/moments`);
export const actions = (episode) => json(`${at(episode)}/actions`);
export const frame = (episode, n) => remembered(`${at(episode)}/frames/${n}`, json);
export const picture = (episode, n, view) => remembered(`${at(episode)}/frames/${n}/pictures/${view}`, pixels);
export const check = async (episode, n) => (await ask(`${at(episode)}/frames/${n}/check`, { method: "POST" })).json();

export function heat(episode, n, { overlay, layer, head }) {
  const asked = overlay === "score" ? { kind: "score" } : { kind: "attention", layer, ...(head === "mean" ? {} : { head }) };
  return remembered(`${at(episode)}/frames/${n}/heat?${new URLSearchParams(asked)}`, json);
}

export function parting(a, b, tolerance) {
  return json(`/api/part?${new URLSearchParams({ a: a.run, ea: a.key, b: b.run, eb: b.key, tolerance })}`);
}
