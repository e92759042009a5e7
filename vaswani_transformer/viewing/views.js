const range = (count) => [...Array(count).keys()];
const MASKED = -1e30, TABLE = 12, CELL = 18;
const repaint = [];  // drawn again when the colours or the head change

/** Numbers that Python packed as float32 in base64; those that are unpacked already. */
function unpacked(text) {
  if (text instanceof Float32Array) return text;
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return new Float32Array(bytes.buffer);
}

/** Numbers that Python rounded: the three highest bytes of float32, in planes. */
async function unpackRounded(text) {
  const planes = await inflate(text), count = planes.length / 3, bits = new Uint32Array(count);
  for (let i = 0; i < count; i++) bits[i] = (planes[i] << 24) | (planes[count + i] << 16) | (planes[2 * count + i] << 8);
  return new Float32Array(bits.buffer);
}

/** A number with its first digits; what a mask took away is minus infinity. */
function figures(x, digits = 6) {
  if (x < MASKED) return "−∞";
  if (x === 0) return "0";
  const text = Math.abs(x) < 1e-4 || Math.abs(x) >= 1e7 ? x.toExponential(digits - 1) : x.toPrecision(digits);
  return text.replace("-", "−");
}
const three = (x) => (x < MASKED ? "−∞" : (Math.abs(x) < 0.005 ? "0.00" : x.toFixed(2)).replace("-", "−"));

/** Text with _{below} and ^{above}, as nodes. */
function marked(text) {
  return text.split(/([_^]\{[^}]*\})/).map((part) => (/^[_^]\{/.test(part)
    ? make(part[0] === "_" ? "sub" : "sup", {}, part.slice(2, -1)) : part));
}

const words = (rows) => (Array.isArray(rows) ? rows : data.words[rows]).map(shown);

/** The colours of the page's style, looked up once for a drawing. */
function palette() {
  return { back: colour("--back"), ink: colour("--ink"), other: colour("--other"), line: colour("--line") };
}

/** The colour of a number as red, green and blue. */
function tint(x, most, scale, colours, strength = 1) {
  if (x < MASKED) return colours.line;
  const share = strength * Math.min(1, Math.abs(x) / (most || 1)) ** (scale === "unit" ? 0.5 : 0.7);
  const full = x < 0 ? colours.other : colours.ink;
  return colours.back.map((part, i) => Math.round(part + (full[i] - part) * share));
}

function greatest(numbers) {
  let most = 0;
  for (const x of numbers) if (x > MASKED && Math.abs(x) > most) most = Math.abs(x);
  return most;
}

/** A picture, one pixel a number. */
function paint(canvas, numbers, columns, scale, most, colours) {
  const rows = numbers.length / columns, image = new ImageData(columns, rows);
  numbers.forEach((x, i) => {
    image.data.set(tint(x, most, scale, colours), 4 * i);
    image.data[4 * i + 3] = 255;
  });
  Object.assign(canvas, { width: columns, height: rows });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Has mouse, finger and arrow keys tell the numbers of a matrix. */
function explore(element, rows, columns, at, tell) {
  let row = 0, column = 0;
  const go = (place) => { if (place) { [row, column] = place; tell(row, column); } };
  element.addEventListener("pointermove", (event) => go(at(event)));
  element.addEventListener("pointerdown", (event) => go(at(event)));
  element.addEventListener("focus", () => tell(row, column));
  element.addEventListener("keydown", (event) => {
    const step = { ...ARROWS, Home: [0, -columns], End: [0, columns] }[event.key];
    if (!step) return;
    event.preventDefault();
    go([Math.max(0, Math.min(rows - 1, row + step[0])), Math.max(0, Math.min(columns - 1, column + step[1]))]);
    element.querySelector(".mark, .here")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

/** Where in a field of rows and columns the pointer is. */
const inside = (field, rows, columns) => (event) => {
  const box = field.getBoundingClientRect();
  const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
  const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
  return row >= 0 && column >= 0 && row < rows && column < columns ? [row, column] : null;
};

/** A matrix: a table where it is small and its columns have names, else coloured fields. */
function matrix(view) {
  const all = unpacked(view.numbers), heads = view.shape.length === 3, [rows, columns] = view.shape.slice(-2);
  const numbers = () => (heads ? all.subarray((state.head - 1) * rows * columns, state.head * rows * columns) : all);
  const names = words(view.rows), over = view.columns && words(view.columns);
  const caption = make("figcaption"), cell = make("p", { class: "cell", "aria-live": "polite" });
  const tell = (row, column) => {
    const x = numbers()[row * columns + column];
    cell.textContent = `${names[row]} ${over ? "→ " + over[column] : "· " + place(view, column)}: ${figures(x, data.digits)}`;
  };
  const drawn = over && columns <= TABLE && rows <= TABLE ? table : over ? square : strips;
  const { element, draw } = drawn({ view, names, over, rows, columns, numbers, tell });
  const figure = make("figure", {}, caption, element, cell);
  const again = (colours) => {
    const found = numbers(), most = view.scale === "unit" ? 1 : greatest(found);
    const title = view.title.replace("{head}", state.head);
    caption.replaceChildren(make("span", {}, ...marked(title)), make("span", { class: "range" }, view.scale === "unit" ? "0 … 1" : `±${figures(most, 3)}`));
    element.querySelector("[tabindex]").setAttribute("aria-label",
      `${title.replace(/[_^{}]/g, "")}, ${rows} rows, ${columns} columns; arrow keys move over the numbers`);
    cell.textContent = "";
    draw(found, most, colours);
  };
  repaint.push(Object.assign(again, { ofHead: heads || view.parts > 1 }));
  return figure;
}

/** The name of a column that is a number: of joined heads, which head it belongs to. */
function place(view, column) {
  const [, columns] = view.shape.slice(-2);
  if (view.parts === 1) return `number ${column + 1}`;
  return `head ${Math.floor(column / (columns / view.parts)) + 1}, number ${(column % (columns / view.parts)) + 1}`;
}

const labels = (names) => make("div", { class: "labels", "aria-hidden": "true" }, ...names.map((name) => make("div", {}, name)));

/** A focusable canvas whose chosen number is framed. */
function field(rows, columns, tell) {
  const canvas = make("canvas", { "aria-hidden": "true" }), mark = make("div", { class: "mark" });
  const element = make("div", { class: "field", tabindex: 0, role: "application", "aria-roledescription": "numbers" }, canvas, mark);
  explore(element, rows, columns, inside(element, rows, columns), (row, column) => {
    Object.assign(mark.style, { visibility: "visible", left: `${(100 * column) / columns}%`, top: `${(100 * row) / rows}%`,
      width: `max(3px, ${100 / columns}%)`, height: `${100 / rows}%` });
    tell(row, column);
  });
  return { element, canvas };
}

/** A row of coloured numbers a token. */
function strips({ view, names, rows, columns, tell }) {
  const { element, canvas } = field(rows, columns, tell), part = make("div", { class: "part" });
  element.style.height = rows * CELL + "px";
  if (view.parts > 1) element.append(part);
  return {
    element: make("div", { class: "strips" }, labels(names), element),
    draw: (numbers, most, colours) => {
      paint(canvas, numbers, columns, view.scale, most, colours);
      Object.assign(part.style, { left: `${(100 * (state.head - 1)) / view.parts}%`, width: `${100 / view.parts}%` });
    },
  };
}

/** A coloured square a pair of tokens. */
function square({ view, names, over, rows, columns, tell }) {
  const { element, canvas } = field(rows, columns, tell);
  Object.assign(element.style, { height: rows * CELL + "px", width: columns * CELL + "px" });
  const top = make("div", { class: "heads-on-top", "aria-hidden": "true" }, ...over.map((name) => make("div", {}, name)));
  const grid = make("div", { class: "square" }, make("span"), top, labels(names), element);
  return { element: make("div", { class: "scroll" }, grid),
    draw: (numbers, most, colours) => paint(canvas, numbers, columns, view.scale, most, colours) };
}

/** The numbers themselves, coloured. */
function table({ view, names, over, rows, columns, tell }) {
  const cells = range(rows * columns).map(() => make("td"));
  const body = names.map((name, row) => make("tr", {}, make("th", { scope: "row" }, name), ...cells.slice(row * columns, (row + 1) * columns)));
  const head = make("tr", {}, make("td"), ...over.map((name) => make("th", { scope: "col" }, name)));
  const element = make("table", { class: "numbers", tabindex: 0 }, make("thead", {}, head), make("tbody", {}, ...body));
  const at = (event) => { const i = cells.indexOf(event.target); return i < 0 ? null : [Math.floor(i / columns), i % columns]; };
  explore(element, rows, columns, at, (row, column) => {
    cells.forEach((cell, i) => cell.classList.toggle("here", i === row * columns + column));
    tell(row, column);
  });
  return {
    element: make("div", { class: "scroll" }, element),
    draw: (numbers, most, colours) => numbers.forEach((x, i) => {
      cells[i].textContent = three(x);
      cells[i].className = x < MASKED ? "masked" : "";
      cells[i].style.background = x < MASKED ? "" : `rgb(${tint(x, most, view.scale, colours, 0.5)})`;
    }),
  };
}

/** Tokens with their numbers. */
function tokens(view) {
  return make("ol", { class: "tokens" }, ...words(view.rows).map((word, i) => make("li", {}, make("b", {}, word),
    make("span", { title: "its number in the vocabulary" }, view.ids[i]),
    ...(view.segments ? [make("span", { class: "segment" }, `text ${view.segments[i] + 1}`)] : []))));
}

/** Mean and deviation of each token before and after a norm. */
function norm(view) {
  const head = make("tr", {}, make("td"), ...["mean before", "deviation before", "mean after", "deviation after"].map((text) =>
    make("th", { scope: "col" }, text)));
  const rows = words(view.rows).map((word, i) => make("tr", {}, make("th", { scope: "row" }, word),
    ...[...view.before[i], ...view.after[i]].map((x) => make("td", {}, figures(Math.abs(x) < 1e-6 ? 0 : x, 4)))));
  const element = make("table", { class: "plain" }, make("thead", {}, head), make("tbody", {}, ...rows));
  return make("figure", {}, make("figcaption", {}, "Each token's mean and standard deviation"), make("div", { class: "scroll", tabindex: 0,
    role: "region", "aria-label": "means and deviations" }, element));
}

/** Sines and cosines over positions, and all of them as a picture. */
function waves(view) {
  const numbers = unpacked(view.numbers), [positions, size] = view.shape, WIDTH = 640, HEIGHT = 150;
  const at = (position, dimension) => numbers[position * size + dimension];
  const x = (position) => 10 + ((WIDTH - 20) * position) / (positions - 1), y = (value) => HEIGHT / 2 - value * (HEIGHT / 2 - 12);
  const svg = make("svg", { class: "waves", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" }), told = make("span", { class: "range" });
  const slider = make("input", { type: "range", min: 0, max: size / 2 - 1, value: Math.min(8, size / 2 - 1), "aria-label": "pair of numbers" });
  const draw = () => {
    const pair = 2 * Number(slider.value);
    svg.replaceChildren(make("line", { x1: 10, x2: WIDTH - 10, y1: HEIGHT / 2, y2: HEIGHT / 2, stroke: "var(--line)" }));
    for (const [dimension, name] of [[pair, "wave"], [pair + 1, "wave cosine"]]) {
      svg.append(make("path", { class: name, d: range(positions).map((i) => `${i ? "L" : "M"}${x(i)},${y(at(i, dimension))}`).join("") }));
      words(view.rows).forEach((word, i) => svg.append(make("path", { class: name, "stroke-width": 4, fill: "currentColor",
        d: `M${x(i) - 2.5},${y(at(i, dimension))}a2.5,2.5 0 1 0 5,0a2.5,2.5 0 1 0 -5,0` }, make("title", {}, `${word}: ${figures(at(i, dimension), data.digits)}`))));
    }
    told.textContent = `numbers ${pair + 1} (blue) and ${pair + 2} (orange) at positions 0 to ${positions - 1}; dots: this text`;
    svg.setAttribute("aria-label", told.textContent);
    slider.setAttribute("aria-valuetext", told.textContent);
  };
  slider.addEventListener("input", draw);
  draw();
  return make("figure", {}, make("figcaption", {}, "Which waves", told), slider, svg);
}

/** Rows of words with bars: [word, share, its probability in words, logit, class]. */
function bars(rows, titles) {
  const row = (role, texts, name = "") => make("div", { role: "row", class: name, ...(name === "wanted" ? { "aria-current": "true" } : {}) }, ...texts.map((text, i) => make("span",
    { role, class: i === 1 ? "bar" : "" }, text)));
  const body = rows.map(({ word, share, told, logit, name }) => row("cell", [word, make("i", { style: `width:${100 * share}%` }), told, logit], name));
  return [row("columnheader", titles), ...body];
}

/** The likeliest words of each place. */
function candidates(view) {
  const list = make("div", { class: "bars", role: "table", "aria-label": view.title }), before = make("div", { class: "places", role: "group", "aria-label": "place" });
  const choose = (number) => {
    const found = view.places[number];
    [...before.children].forEach((button, i) => button.setAttribute("aria-pressed", i === number));
    const rows = found.words.map((word, i) => ({ word: shown(word), share: Math.exp(found.logits[i] - found.log_sum),
      told: percent(Math.exp(found.logits[i] - found.log_sum)), logit: three(found.logits[i]), name: found.ids[i] === found.chosen ? "wanted" : "" }));
    list.replaceChildren(...bars(rows, ["word", "", "probability", "logit"]));
  };
  before.append(...words(view.rows).map((word, i) => make("button", { type: "button", onclick: () => choose(i) }, word)));
  choose(view.first ?? 0);
  return make("figure", {}, make("figcaption", {}, view.title), ...(view.places.length > 1 ? [before] : []), list);
}

/** The next word, with temperature and top-k. */
function dials(view) {
  const logits = unpacked(view.logits), list = make("div", { class: "bars", role: "table", "aria-label": "the next word" });
  const heat = make("input", { type: "range", min: 0.1, max: 2, step: 0.05, value: 1 }), told = make("output", { "aria-live": "polite" });
  const top = make("input", { type: "range", min: 1, max: view.ids.length + 1, value: view.ids.length + 1 }), kept = make("output", { "aria-live": "polite" });
  const draw = () => {
    const tau = Number(heat.value), k = Number(top.value), all = k > view.ids.length, best = logits[view.ids[0]];
    const power = (i) => Math.exp((logits[i] - best) / tau);
    let sum = 0;
    if (all) for (let i = 0; i < logits.length; i++) sum += power(i);
    else for (const i of view.ids.slice(0, k)) sum += power(i);
    told.textContent = tau.toFixed(2);
    kept.textContent = all ? `all ${logits.length}` : k;
    top.setAttribute("aria-valuetext", kept.textContent);
    list.replaceChildren(...bars(view.ids.slice(0, 15).map((i, place) => {
      const share = all || place < k ? power(i) / sum : 0;
      return { word: shown(view.words[place]), share, told: percent(share), logit: three(logits[i]), name: share ? "" : "out" };
    }), ["word", "", "probability", "logit"]));
  };
  heat.addEventListener("input", draw);
  top.addEventListener("input", draw);
  draw();
  return make("figure", {}, make("div", { class: "dials" }, make("label", {}, make("span", {}, "temperature τ = ", told), heat),
    make("label", {}, make("span", {}, "top-k = ", kept), top)), list);
}
