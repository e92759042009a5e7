/** What the place that fills the blank looks at: of a head, or the mean of all of its layer. */
function looks(model, weights, layer, head) {
  const [, heads, size] = model.shape;
  const row = (number) => weights.subarray((layer * heads + number) * size, (layer * heads + number + 1) * size);
  if (head !== "all") return row(head);
  return range(size).map((i) => range(heads).reduce((sum, number) => sum + row(number)[i] / heads, 0));
}

/** The tokens, each as dark as it is looked at; what is not read is struck out. */
function reading(model) {
  const weights = unpacked(model.weights), [layers, heads] = model.shape, state = { layer: layers - 1, head: "all" };
  const list = make("ol", { class: "tokens reading" });
  const draw = (colours) => {
    const found = looks(model, weights, state.layer, state.head), most = Math.max(...found);
    list.replaceChildren(...model.words.map((word, i) => make("li", { class: i === model.place ? "blank" : "",
      style: `background: rgb(${tint(found[i], most, "unit", colours, 0.5)})` }, make("b", {}, shown(word)), make("span", {}, percent(found[i])))));
    const rest = model.unread.trim();
    if (rest) list.append(make("li", { class: "unread" }, make("s", {}, named(rest)),
      make("span", {}, "not read" + (model.more_unread ? `, nor ${model.more_unread} letters more` : ""))));
  };
  const select = (name, pairs) => make("select", { onchange: (event) => {
    state[name] = event.target.value === "all" ? "all" : Number(event.target.value);
    draw(palette());
  } }, ...pairs.map(([value, text]) => make("option", { value, ...(value === state[name] ? { selected: "" } : {}) }, text)));
  repaint.push(draw);
  return make("figure", {}, make("figcaption", {}, "What the blank looks at"), make("div", { class: "choices" },
    make("label", {}, "layer", select("layer", range(layers).map((i) => [i, i + 1]))),
    make("label", {}, "head", select("head", [["all", "all, their mean"], ...range(heads).map((i) => [i, i + 1])]))), list);
}

/** Who may look at whom, in layers that have one mask. */
function mask(model, { layers, seen: packed }) {
  const seen = unpacked(packed), names = model.words.map(shown), size = names.length, cell = make("p", { class: "cell", "aria-live": "polite" });
  const numbers = seen.map((x) => (x ? 0.5 : 2 * MASKED));
  const tell = (row, column) => { cell.textContent = `${names[row]} ${seen[row * size + column] ? "may" : "must not"} look at ${names[column]}`; };
  const drawn = square({ view: { scale: "signed" }, names, over: names, rows: size, columns: size, tell });
  const open = seen.reduce((sum, x) => sum + x, 0);
  drawn.element.querySelector("[tabindex]").setAttribute("aria-label", `mask, ${size} tokens; arrow keys move over it`);
  drawn.element.querySelector(".field").classList.add("cells");
  repaint.push((colours) => drawn.draw(numbers, 1, colours));
  return make("figure", {}, make("figcaption", {}, `The mask${layers.length < model.shape[0] ? " of layer " + layers.join(", ") : ""}: a row looks, a column is seen`,
    make("span", { class: "range" }, `${open} of ${size * size} are open`)), drawn.element, cell);
}

function filled(model) {
  const { words, logits, log_sum } = model.filled;
  const rows = words.map((word, i) => ({ word: shown(word), share: Math.exp(logits[i] - log_sum), told: percent(Math.exp(logits[i] - log_sum)), logit: three(logits[i]), name: "" }));
  return make("figure", {}, make("figcaption", {}, "What it puts there"),
    make("div", { class: "bars", role: "table", "aria-label": "likeliest words" }, ...bars(rows, ["word", "", "probability", "logit"])));
}

function column(model, number) {
  const parts = [make("h2", { id: "model-" + number }, named(model.name)), make("p", {}, model.told)];
  if (model.notice) parts.push(make("p", { class: "notice" }, named(model.notice)));
  return make("section", { "aria-labelledby": "model-" + number }, ...parts, filled(model), reading(model), ...model.masks.map((found) => mask(model, found)));
}

function paintAll() {
  const colours = palette();
  repaint.forEach((again) => again(colours));
}

function begin() {
  find("title").textContent = named(data.title);
  find("sentence").append(cut(data.before, 300), make("b", { class: "gap" }, "___"), cut(data.behind, 300));
  find("models").append(...data.models.map(column));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintAll);
  paintAll();
  document.body.dataset.ready = "yes";
}
begin();
