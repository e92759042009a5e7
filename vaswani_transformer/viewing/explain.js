const state = { head: data.head };
const VIEWS = { matrix, tokens, norm, waves, candidates, beam, dials };

/** Draws all numbers, or those of the chosen head. */
function draw(ofHead = false) {
  const colours = palette();
  repaint.filter((again) => again.ofHead || !ofHead).forEach((again) => again(colours));
}

function whereItStands(line) {
  return [make("span", {}, `${line.file}:${line.line} · ${line.symbol}`), make("div", { tabindex: 0 }, line.text)];
}

function stage(found, number) {
  const title = make("h3", { id: "title-" + found.name }, make("span", { class: "number" }, number), found.title,
    make("span", { class: "faint" }, found.paper));
  const parts = [title, make("p", {}, ...marked(found.about))];
  if (found.equation) parts.push(make("p", { class: "formula" }, ...marked(found.equation)));
  parts.push(...found.views.map((view) => VIEWS[view.kind](view)));
  if (found.shapes.length) parts.push(make("p", { class: "shapes" }, ...found.shapes.map((text) => make("span", {}, text))));
  if (found.code.length) parts.push(make("div", { class: "code" }, ...found.code.flatMap(whereItStands)));
  return make("section", { class: "stage", id: found.name, "aria-labelledby": "title-" + found.name }, ...parts);
}

/** Marks the link of the stage that is read. */
function follow() {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.getAttribute("href").slice(1), link]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const first = [...links.keys()].find((name) => seen.has(name));
    links.forEach((link, name) => (name === first ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
    const list = document.querySelector("nav"), place = first && links.get(first).offsetTop;
    if (first && (place < list.scrollTop || place > list.scrollTop + list.clientHeight - 60)) list.scrollTop = place - list.clientHeight / 2;
  }, { rootMargin: "-10% 0px -50% 0px" });
  document.querySelectorAll(".stage").forEach((section) => watch.observe(section));
}

function sentence() {
  const parts = [make("b", {}, cut(data.source, 200))];
  if (data.result) parts.push(make("span", { class: "arrow" }, data.arrow), make("b", {}, cut(data.result, 200)));
  find("sentence").append(...parts);
}

async function begin() {
  find("title").textContent = named(data.title);
  find("about").textContent = data.about;
  if (data.notice) { find("notice").textContent = named(data.notice); find("notice").hidden = false; }
  sentence();
  const views = data.parts.flatMap((part) => part.stages.flatMap((found) => found.views));
  if (data.digits < 6) for (const view of views) if (view.numbers) view.numbers = await unpackRounded(view.numbers);
  let number = 0;
  for (const part of data.parts) {
    find("stages").append(make("h2", {}, part.title));
    const links = part.stages.map((found) => make("li", {}, make("a", { href: "#" + found.name }, found.title)));
    find("links").append(make("h2", {}, part.title), make("ol", {}, ...links));
    for (const found of part.stages) find("stages").append(stage(found, ++number));
  }
  find("head").append(...range(data.heads).map((i) => make("option", { value: i + 1 }, i + 1)));
  find("head").value = state.head;
  find("head").onchange = (event) => { state.head = Number(event.target.value); draw(true); };
  const wide = matchMedia("(min-width: 60rem)"), fold = () => { find("contents").open = wide.matches; };
  wide.addEventListener("change", fold);
  fold();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  draw();
  follow();
  document.body.dataset.ready = "yes";
}
begin();
