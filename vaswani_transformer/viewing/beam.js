/** The tree of a beam search: what was kept at each step, and the finished translations with their penalty. */
function beam(view) {
  const STEP = 118, ROW = 46, WIDE = 96, best = new Set(view.finished[0].path.map((row, step) => `${step + 1} ${row}`));
  const ends = view.finished.filter((found) => found.ended && found.path.length === found.length - 1 && found.length <= view.steps.length + 1);
  const svg = make("svg", { class: "tree", role: "application", "aria-label": "tree of the search; arrow keys move over it" }), cell = make("p", { class: "cell", "aria-live": "polite" });
  const x = (step) => 4 + step * STEP, y = (row) => 4 + row * ROW;
  const node = (step, row, word, small, told, name, press) => svg.append(make("g", { class: name, "data-row": row, "data-column": step, tabindex: -1, role: "img", "aria-label": told,
    onclick: press, onpointerenter: press, onfocus: press },
    make("rect", { x: x(step), y: y(row), width: WIDE, height: 36, rx: 6 }),
    make("text", { x: x(step) + WIDE / 2, y: y(row) + 16, "text-anchor": "middle" }, short(word, WIDE - 8)),
    make("text", { x: x(step) + WIDE / 2, y: y(row) + 30, "text-anchor": "middle", class: "small" }, small)));
  const edge = (step, from, to, name) => svg.append(make("path", { class: "edge " + name,
    d: `M${x(step) + WIDE},${y(from) + 18}C${x(step) + WIDE + 12},${y(from) + 18} ${x(step + 1) - 12},${y(to) + 18} ${x(step + 1)},${y(to) + 18}` }));
  const told = (text) => () => { cell.textContent = text; };
  const placed = ends.map((found) => ({ found, row: view.beams + ends.filter((other) => other.length === found.length).indexOf(found) }));
  view.steps.forEach((level, step) => level.forEach((kept, row) => edge(step, kept.parent, row, best.has(`${step + 1} ${row}`) ? "best" : "")));
  placed.forEach(({ found, row }) => edge(found.length - 1, found.path.at(-1) ?? 0, row, found === view.finished[0] ? "best" : ""));
  node(0, 0, "‹start›", "log P = 0", "start", "best", told("The search starts with nothing said."));
  view.steps.forEach((level, step) => level.forEach((kept, row) => {
    const text = `Step ${step + 1}: ${path(view, step, row)} · log P = ${figures(kept.total)}, of which this word ${figures(kept.log_prob)}`;
    node(step + 1, row, shown(kept.word), figures(kept.total, 4), text, best.has(`${step + 1} ${row}`) ? "best" : "", told(text));
  }));
  placed.forEach(({ found, row }) => {
    const text = `Finished: ${cut(found.text, 300)} · score ${figures(found.score)}`;
    node(found.length, row, "‹end›", figures(found.score, 4), text, "end " + (found === view.finished[0] ? "best" : ""), told(text));
  });
  const columns = Math.max(view.steps.length, ...ends.map((found) => found.length)) + 1;
  const rows = Math.max(view.beams, ...placed.map(({ row }) => row + 1));
  rove(svg);
  settle(svg);
  svg.setAttribute("width", x(columns));
  svg.setAttribute("height", y(rows));
  const left = view.all_steps > view.steps.length + 1 ? ` (the first ${view.steps.length} of ${view.all_steps} steps)` : "";
  return make("figure", {}, make("figcaption", {}, `What is kept at each step, by log P; below, what has ended, by score${left}`),
    make("div", { class: "scroll" }, svg), cell, finished(view));
}

/** A word cut to the width of its box. */
function short(word, room) {
  const letters = [...word], fits = (count) => wide(letters.slice(0, count).join("") + "…", 13) <= room;
  if (wide(word, 13) <= room) return word;
  return letters.slice(0, range(letters.length).findLast(fits) ?? 1).join("") + "…";
}

/** The words that lead to a place. */
function path(view, step, row) {
  const found = [];
  for (; step >= 0; step--) {
    found.unshift(shown(view.steps[step][row].word));
    row = view.steps[step][row].parent;
  }
  return found.join(" ");
}

function finished(view) {
  const titles = ["translation", "log P", "|Y|", "lp(Y)", "score"];
  const rows = view.finished.map((found) => make("tr", {}, make("th", { scope: "row", class: "text" }, cut(found.text, 300)),
    ...[figures(found.total), found.length, figures(found.penalty), figures(found.score)].map((text) => make("td", {}, text))));
  const head = make("tr", {}, ...titles.map((text) => make("th", { scope: "col" }, text)));
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "finished translations" },
    make("table", { class: "plain" }, make("thead", {}, head), make("tbody", {}, ...rows)));
}
