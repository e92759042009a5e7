const state = { kind: data.start.kind, layer: data.start.layer, head: data.start.head, word: null, side: "looking", cell: null };
const weights = {};
const ROW = 22, GAP = 150, MOST_IN_LIST = 8, LEAST = [0.05, 0.005];  // of a line: of all words, of one

const map = () => data.maps[state.kind];
/** The room of a word in a picture, with some beside it. */
const long = (word) => 16 + wide(shown(word));
const width = (words) => Math.max(...words.map(long));
/** The weights [T, S] of a head. */
function head(layer, number) {
  const { looking, seen, heads } = map();
  const size = looking.length * seen.length;
  return weights[state.kind].subarray((layer * heads + number) * size, (layer * heads + number + 1) * size);
}
/** The weights of what is chosen: of one head, or the mean of all. */
function chosen() {
  if (state.head !== "all") return head(state.layer, state.head);
  const { heads } = map();
  const mean = new Float32Array(head(state.layer, 0).length);
  for (let number = 0; number < heads; number++) head(state.layer, number).forEach((x, i) => (mean[i] += x / heads));
  return mean;
}

function choose(change) {
  Object.assign(state, change);
  if (change.kind) Object.assign(state, { layer: 0, head: "all", word: null, cell: null });
  if (change.kind) all();
  draw();
}

function options(select, pairs, value) {
  select.replaceChildren(...pairs.map(([key, text]) => make("option", { value: key }, text)));
  select.value = value;
}

function lists() {
  const { looking, seen, layers, heads } = map();
  options(find("kind"), Object.keys(data.maps).map((kind) => [kind, kind]), state.kind);
  options(find("layer"), range(layers).map((i) => [i, i + 1]), state.layer);
  options(find("head"), [["all", "all, their mean"], ...range(heads).map((i) => [i, i + 1])], state.head);
  const words = looking.map((word, i) => ["looking " + i, `${i + 1} ${shown(word)}`]);
  const others = seen.map((word, i) => ["seen " + i, `seen ${i + 1} ${shown(word)}`]);
  options(find("word"), [["", "all"], ...words, ...others], state.word === null ? "" : `${state.side} ${state.word}`);
}

function word(side, index, x, text, chosenOne) {
  const press = () => choose(chosenOne ? { word: null } : { word: index, side });
  const group = make("g", { class: "word", role: "button", "aria-pressed": chosenOne, "data-row": index, "data-column": side === "looking" ? 0 : 1,
    "aria-label": `${shown(text)}, ${side === "looking" ? "what it looks at" : "who looks at it"}`, onclick: press,
    onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); press(); } } });
  const size = long(text);
  if (chosenOne) group.append(make("rect", { class: "chosen", x: side === "looking" ? x - size : x, y: index * ROW,
    width: size, height: ROW, rx: 3 }));
  group.append(make("text", { x: side === "looking" ? x - 8 : x + 8, y: index * ROW + 16,
    "text-anchor": side === "looking" ? "end" : "start" }, shown(text)));
  return group;
}

/** Whether a line belongs to the chosen word. */
function drawn(row, column) {
  if (state.word === null) return true;
  if (state.side === "looking" && row === state.word) return true;
  return (state.side === "seen" || map().same) && column === state.word;
}

/** What is shown, in words. */
const shownNow = () => `${state.kind} attention, layer ${state.layer + 1}, ${state.head === "all" ? "mean of all heads" : "head " + (state.head + 1)}`;

function lines(numbers) {
  const { looking, seen } = map(), svg = find("lines"), left = width(looking);
  svg.setAttribute("width", left + GAP + width(seen));
  svg.setAttribute("height", ROW * Math.max(looking.length, seen.length));
  svg.setAttribute("aria-label", `${shownNow()}: ${looking.length} words that look, ${seen.length} that are seen; arrow keys move over them, Enter chooses`);
  const nodes = [], least = LEAST[state.word === null ? 0 : 1];
  numbers.forEach((x, i) => {
    const row = Math.floor(i / seen.length), column = i % seen.length;
    if (x < least || !drawn(row, column)) return;
    const from = state.word === null || (state.side === "looking" && row === state.word);
    nodes.push(make("line", { class: from ? "from" : "to", x1: left, y1: row * ROW + ROW / 2, x2: left + GAP,
      y2: column * ROW + ROW / 2, "stroke-width": 2.5, "stroke-opacity": Math.max(0.04, x) }));
  });
  const is = (side, i) => state.word === i && state.side === side;
  redraw(svg, ...nodes, ...looking.map((text, i) => word("looking", i, left, text, is("looking", i))),
    ...seen.map((text, i) => word("seen", i, left + GAP, text, is("seen", i))));
}

/** The colours of weights, from 0 to 1 by their root, so that small ones are seen. */
let colours;
function mix() {
  const ink = colour("--ink"), back = colour("--back");
  colours = new Uint32Array(1025);
  const bytes = new Uint8Array(colours.buffer);
  for (let i = 0; i <= 1024; i++) {
    for (let part = 0; part < 3; part++) bytes[4 * i + part] = back[part] + (ink[part] - back[part]) * Math.sqrt(i / 1024);
    bytes[4 * i + 3] = 255;
  }
}

/** A heat map as a picture, one pixel a weight. */
function picture(numbers) {
  const { looking, seen } = map();
  const canvas = make("canvas", { width: seen.length, height: looking.length, "aria-hidden": "true" });
  const image = new ImageData(seen.length, looking.length), pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < numbers.length; i++) pixels[i] = colours[Math.round(1024 * numbers[i])];
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function heat(numbers) {
  const { looking, seen } = map(), svg = find("map"), left = width(looking), top = width(seen);
  const side = Math.max(6, Math.min(24, 480 / Math.max(looking.length, seen.length)));
  svg.setAttribute("width", left + side * seen.length + 8);
  svg.setAttribute("height", top + side * looking.length + 8);
  svg.setAttribute("aria-label", `heat map, ${shownNow()}; arrow keys move over it, Enter chooses the row's word`);
  svg.replaceChildren();
  const every = Math.ceil(14 / side);
  looking.forEach((text, i) => { if (i % every === 0) svg.append(make("text", { x: left - 4,
    y: top + side * (i + 0.5) + 5, "text-anchor": "end" }, shown(text))); });
  seen.forEach((text, i) => { if (i % every === 0) svg.append(make("text", { "text-anchor": "start",
    transform: `translate(${left + side * (i + 0.5) + 5},${top - 4}) rotate(-90)` }, shown(text))); });
  const image = document.createElementNS("http://www.w3.org/2000/svg", "foreignObject");
  for (const [key, value] of Object.entries({ x: left, y: top, width: side * seen.length, height: side * looking.length }))
    image.setAttribute(key, value);
  const canvas = picture(numbers);
  canvas.style.width = side * seen.length + "px";
  canvas.style.height = side * looking.length + "px";
  image.append(canvas);
  svg.append(image);
  const mark = make("rect", { fill: "none", stroke: "var(--other)", "stroke-width": 2, width: side, height: side, visibility: "hidden" });
  svg.append(mark);
  const tell = (row, column) => {
    const cell = state.cell = { row: Math.max(0, Math.min(looking.length - 1, row)), column: Math.max(0, Math.min(seen.length - 1, column)) };
    mark.setAttribute("x", left + side * cell.column);
    mark.setAttribute("y", top + side * cell.row);
    mark.setAttribute("visibility", "visible");
    const x = numbers[cell.row * seen.length + cell.column];
    find("cell").textContent = `${shown(looking[cell.row])} → ${shown(seen[cell.column])}: ${x.toFixed(6)}`;
  };
  const at = (event) => {
    const box = svg.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - top) / side), column = Math.floor((event.clientX - box.left - left) / side);
    return row >= 0 && column >= 0 && row < looking.length && column < seen.length ? { row, column } : null;
  };
  svg.onmousemove = (event) => { const place = at(event); if (place) tell(place.row, place.column); };
  svg.onclick = (event) => { const place = at(event); if (place) choose({ word: place.row, side: "looking" }); };
  svg.onfocus = () => tell(state.cell?.row ?? 0, state.cell?.column ?? 0);
  svg.onkeydown = (event) => {
    const step = ARROWS[event.key];
    if (!step && event.key !== "Enter") return;
    event.preventDefault();
    if (!step) return choose({ word: state.cell.row, side: "looking" });
    tell(state.cell.row + step[0], state.cell.column + step[1]);
    mark.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  if (state.cell) tell(state.cell.row, state.cell.column);
  else find("cell").textContent = "";
}

/** The largest of a word's weights, in words. */
function told(numbers) {
  const { looking, seen, same } = map(), place = find("told");
  place.replaceChildren();
  if (state.word === null) return;
  const list = (title, pairs) => place.append(make("h2", {}, title), make("ol", {}, ...pairs.sort((a, b) => b[1] - a[1])
    .slice(0, MOST_IN_LIST).map(([text, x]) => make("li", {}, `${shown(text)} ${percent(x)}`))));
  if (state.side === "looking")
    list(`${shown(looking[state.word])} looks at`, seen.map((text, i) => [text, numbers[state.word * seen.length + i]]));
  if (state.side === "seen" || same)
    list(`who looks at ${shown(seen[state.word])}`, looking.map((text, i) => [text, numbers[i * seen.length + state.word]]));
}

function small(layer, number, label) {
  return make("button", { "data-layer": layer, "data-head": number, "data-row": layer, "data-column": number, "aria-label": `layer ${layer + 1}, head ${number + 1}`,
    onclick: () => choose({ layer, head: number }) }, picture(head(layer, number)), ...label);
}

const range = (count) => [...Array(count).keys()];

/** The heads of the chosen layer. */
function row() {
  const { heads } = map();
  find("layer-title").textContent = `The ${heads} heads of layer ${state.layer + 1}`;
  find("heads").style.gridTemplateColumns = "repeat(auto-fill, minmax(7rem, 1fr))";
  redraw(find("heads"), ...range(heads).map((number) => small(state.layer, number, [`head ${number + 1}`])));
}

/** All heads of all layers. */
function all() {
  const { layers, heads } = map();
  find("all").style.gridTemplateColumns = `max-content repeat(${heads}, minmax(2rem, 5rem))`;
  redraw(find("all"), ...range(layers).flatMap((layer) => [make("span", { class: "faint layer", "aria-hidden": "true" }, layer + 1),
    ...range(heads).map((number) => small(layer, number, []))]));
}

/** What the lines are. */
function hint() {
  const { looking, seen, same } = map(), { word, side } = state;
  const least = ` Weights under ${100 * LEAST[word === null ? 0 : 1]} % have no line.`;
  if (word === null) return "Lines go from the word that looks (left) to what it looks at (right); choose a word to see it alone." + least;
  const from = `Blue: what ${shown(looking[word] ?? "")} looks at.`, to = `Orange: who looks at ${shown(seen[word] ?? "")}.`;
  return (side === "seen" ? to : same ? `${from} ${to}` : from) + least;
}

function draw() {
  lists();
  find("hint").textContent = hint();
  const numbers = chosen();
  lines(numbers);
  heat(numbers);
  told(numbers);
  row();
  for (const button of document.querySelectorAll(".grid button"))
    button.setAttribute("aria-pressed", Number(button.dataset.layer) === state.layer && Number(button.dataset.head) === state.head);
  settle(find("heads"));
  settle(find("all"));
}

function everything() {
  mix();
  all();
  draw();
}

async function begin() {
  find("title").textContent = named(data.title);
  find("about").textContent = data.about;
  if (data.notice) { find("notice").textContent = named(data.notice); find("notice").hidden = false; }
  for (const [kind, { packed }] of Object.entries(data.maps)) weights[kind] = await unpack(packed);
  const number = (text) => (text === "all" ? "all" : Number(text));
  find("kind").onchange = (event) => choose({ kind: event.target.value });
  find("layer").onchange = (event) => choose({ layer: Number(event.target.value) });
  find("head").onchange = (event) => choose({ head: number(event.target.value) });
  find("word").onchange = (event) => {
    const [side, index] = event.target.value.split(" ");
    choose(index === undefined ? { word: null } : { word: Number(index), side });
  };
  for (const id of ["lines", "heads", "all"]) rove(find(id));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", everything);
  everything();
  document.body.dataset.ready = "yes";
}
begin();
