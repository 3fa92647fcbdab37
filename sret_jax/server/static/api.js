// The server's API. Every failure is an Error whose message can be shown.

const KINDS = ["image/jpeg", "image/png", "image/webp"]; // what every server decodes
const MOST_BYTES = 20e6, MOST_PIXELS = 50e6; // of what is sent
const CONVERTED = 2048; // longest side of what is encoded anew, pixels

export const photoUrl = (name, size) =>
  "/photos/" + name.split("/").map(encodeURIComponent).join("/") + (size ? `?size=${size}` : "");

export const status = () => get("/status");

export const names = (start, count, contains, signal) =>
  get("/photos?" + new URLSearchParams({ start, count, contains }), signal);

// A query is {name} of the collection, or {file}.
export async function search(query, region, start, k, signal) {
  return (await ask("/search", query, { region, start, k }, signal)).json();
}

export async function heat(photo, query, region, signal) {
  return (await ask("/heat", query, { photo, region }, signal)).blob();
}

// The box of the object that stands out in a photograph.
export async function object(query, signal) {
  return (await (await ask("/object", query, {}, signal)).json()).box;
}

// A photograph at most `size` pixels large, {url, size}: what shows it, and its own [width, height].
export async function picture(name, size) {
  const response = await call(photoUrl(name, size), {});
  return { url: URL.createObjectURL(await response.blob()), size: sizeOf(response) };
}

// A file as it is sent, and what shows it: {file, shown, size}. Other kinds than the browser's are shown by the server;
// those that may not be the server's, and what is too large, become JPEG.
export async function sendable(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return preview(file);
  }
  const { width, height } = bitmap;
  if (KINDS.includes(file.type) && file.size <= MOST_BYTES && width * height <= MOST_PIXELS) {
    bitmap.close();
    return { file, shown: file, size: null };
  }
  const jpeg = await drawn(bitmap, 0);
  return { file: jpeg, shown: jpeg, size: null };
}

// A photograph, {name} of the collection or {shown}, turned clockwise by quarters.
export async function turned(query, quarters) {
  const file = query.shown ?? (await (await call(photoUrl(query.name), {})).blob());
  return drawn(await createImageBitmap(file), quarters);
}

async function preview(file) {
  const label = file.name || "The file";
  if (file.size > MOST_BYTES) throw new Error(`${label} is larger than 20 MB, and not of a kind that this browser shows.`);
  try {
    const headers = { "Content-Type": "application/octet-stream" };
    const response = await call("/preview", { method: "POST", body: file, headers });
    return { file, shown: await response.blob(), size: sizeOf(response) };
  } catch (error) {
    throw new Error(`${label}: ${error.message.charAt(0).toLowerCase()}${error.message.slice(1)}`);
  }
}

// A bitmap as JPEG, not too large and turned clockwise by quarters.
async function drawn(bitmap, quarters) {
  const scale = Math.min(1, CONVERTED / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = quarters % 2 ? [height, width] : [width, height];
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.translate(canvas.width / 2, canvas.height / 2);
  context.rotate((quarters * Math.PI) / 2);
  context.drawImage(bitmap, -width / 2, -height / 2, width, height);
  bitmap.close();
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
}

const sizeOf = (response) => response.headers.get("X-Photograph-Size").split("x").map(Number);

async function ask(path, query, options, signal) {
  if (query.name !== undefined) {
    const body = JSON.stringify({ name: query.name, ...options });
    return call(path, { method: "POST", body, headers: { "Content-Type": "application/json" }, signal });
  }
  const given = Object.entries(options).filter(([, value]) => value !== null && value !== undefined);
  const headers = { "Content-Type": query.file.type || "application/octet-stream" };
  return call(`${path}?` + new URLSearchParams(given), { method: "POST", body: query.file, headers, signal });
}

const get = async (path, signal) => (await call(path, { signal })).json();

async function call(path, options, tries = 4) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is “sret serve” still running?");
  }
  if (response.ok) return response;
  if (response.status === 503 && tries > 1) { // it is busy
    await new Promise((done) => setTimeout(done, 700));
    options.signal?.throwIfAborted();
    return call(path, options, tries - 1);
  }
  const said = await response.json().catch(() => ({}));
  throw new Error(sentence(said.error || `The server answered ${response.status}.`));
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
