const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);

/** An element with attributes and children; texts are text, never read as HTML. */
function make(name, attributes = {}, ...children) {
  const svg = ["svg", "line", "rect", "text", "g", "title", "path"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** The numbers that Python packed: three planes of bytes, compressed. */
async function unpack(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = planes.length / 3;
  const numbers = new Float32Array(count);
  for (let i = 0; i < count; i++)
    numbers[i] = (planes[i] + 256 * planes[count + i] + 65536 * planes[2 * count + i]) / data.steps;
  return numbers;
}

/** A colour of the page's style as red, green and blue. */
function colour(name) {
  const probe = make("span", { style: `color: var(${name})` });
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}

const percent = (number) => (100 * number).toFixed(1) + " %";
/** A token as a person sees it: its spaces made visible where there is nothing else, control characters named. */
function shown(word) {
  const safe = word.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (letter) => "\\u" + letter.charCodeAt(0).toString(16).padStart(4, "0"));
  return safe.length > 24 ? safe.slice(0, 23) + "…" : safe;
}
