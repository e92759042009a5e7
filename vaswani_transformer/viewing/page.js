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

/** Bytes that Python compressed. */
async function inflate(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Weights that Python packed: multiples of a small step, in three planes of bytes. */
async function unpack(text) {
  const planes = await inflate(text), count = planes.length / 3;
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

/** A text with what has no shape, or turns the direction of others, by its number; joiners alone are nothing too. */
function named(text) {
  const unseen = /^[\u200c\u200d]+$/.test(text) ? /./gu : /(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;
  return text.replace(unseen, (letter) => "\\u" + letter.codePointAt(0).toString(16).padStart(4, "0"));
}

/** A text as a person sees it, of so many letters. */
function cut(text, most) {
  const letters = [...named(text)];
  return letters.length > most ? letters.slice(0, most - 1).join("") + "…" : letters.join("");
}

const LEFTWARD = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
/** A token as a person sees it; one that is read to the left turns nothing beside it. */
function shown(word) {
  const text = cut(word, 24);
  return LEFTWARD.test(text) ? `\u2068${text}\u2069` : text;
}

const ruler = document.createElement("canvas").getContext("2d");
/** The width of a text in a picture, in pixels. */
function wide(text, size = 14) {
  ruler.font = `${size}px system-ui, sans-serif`;  // as in page.css
  return ruler.measureText(text).width;
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const items = (group) => [...group.querySelectorAll("[data-row]")];
const spot = (item) => [Number(item.dataset.row), Number(item.dataset.column)];

/** The Tab key stops at one item of a group. */
function stop(group, chosen) {
  items(group).forEach((item) => item.setAttribute("tabindex", item === chosen ? 0 : -1));
}

/** Makes the items of a group, which have data-row and data-column, one stop of the Tab key; arrow keys move in it. */
function rove(group) {
  group.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (!step) return;
    event.preventDefault();
    const [row, column] = spot(event.target.closest("[data-row]"));
    const line = items(group).filter((item) => spot(item)[1] === column + step[1]);
    const next = step[0] ? line.find((item) => spot(item)[0] === row + step[0]) : line.findLast((item) => spot(item)[0] <= row) ?? line[0];
    if (!next) return;
    stop(group, next);
    next.focus();
  });
}

/** The Tab key stops where the keyboard is in a group, else at what is chosen, else at its first item. */
function settle(group, current = document.activeElement) {
  const found = items(group), pressed = (item) => item.getAttribute("aria-pressed") === "true";
  stop(group, found.find((item) => item === current) ?? found.find(pressed) ?? found[0]);
}

/** Draws the items of a group anew; the keyboard stays at the one where it was. */
function redraw(group, ...children) {
  const active = group.contains(document.activeElement) && String(spot(document.activeElement));
  group.replaceChildren(...children);
  const same = items(group).find((item) => String(spot(item)) === active);
  settle(group, same);
  if (same) same.focus({ preventScroll: true });
}
