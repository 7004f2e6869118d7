// One example in words: under the pointer, and pinned with its trajectory.

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function number3(value) {
  return Number.isNaN(value) ? "-" : value.toFixed(3);
}

function textsOf(data, row) {
  return data.texts ? data.texts[row] : [];
}

function rightIn(map, row) {
  if (!map.correctness || map.correctness[row] === noneOf(map.correctness)) return "-";
  return `${map.correctness[row]} of ${map.seen[row]}`;
}

// [name, value] pairs of an example in a map.
function factsOf(data, map, row) {
  const facts = [];
  const label = nameIn(data.labelNames, data.labels, row);
  if (label) facts.push(["Label", label]);
  const preferred = nameIn(data.labelNames, map.preferred, row);
  if (preferred) facts.push(["The model prefers", preferred]);
  if (data.groups) facts.push(["Group", nameIn(data.groups.names, data.groups.codes, row) || "-"]);
  facts.push(["Confidence", number3(confidenceOf(map, row))], ["Variability", number3(variabilityOf(map, row))]);
  if (map.correctness) facts.push(["Right in", `${rightIn(map, row)} epochs`]);
  if (map.aum) facts.push(["AUM", Number.isNaN(map.aum[row]) ? "-" : map.aum[row].toFixed(2)]);
  const region = map.region[row] === noneOf(map.region) ? "not scored" : data.regions[map.region[row]];
  facts.push(["Region", region]);
  return facts;
}

// Where it lies in the map beside.
function placeFacts(map, row) {
  return [
    [`Confidence ${map.name}`, number3(confidenceOf(map, row))],
    [`Variability ${map.name}`, number3(variabilityOf(map, row))],
  ];
}

// What a screen reader is told when an example is pinned.
function sentenceOf(data, map, row) {
  const facts = factsOf(data, map, row).map(([name, value]) => `${name} ${value}`);
  return [`Example ${data.ids[row]}`, ...textsOf(data, row).map((text) => text.slice(0, 200)), ...facts].join(". ");
}

function showTooltip(box, data, map, row, x, y) {
  box.replaceChildren(element("strong", data.ids[row]));
  const label = nameIn(data.labelNames, data.labels, row);
  const said = `${label ? `${label} · ` : ""}confidence ${number3(confidenceOf(map, row))} · variability ${number3(variabilityOf(map, row))}`;
  box.append(element("span", said));
  for (const text of textsOf(data, row)) box.append(element("span", text.length > 160 ? `${text.slice(0, 160)}…` : text, { class: "text" }));
  box.hidden = false;
  const width = box.parentElement.clientWidth;
  const left = x > width / 2 ? Math.max(0, x - box.offsetWidth - 14) : Math.min(x + 14, Math.max(0, width - box.offsetWidth));
  box.style.left = `${left}px`;
  box.style.top = `${Math.max(0, y - box.offsetHeight - 10)}px`;
}

const SVG = { width: 320, height: 150, left: 30, right: 8, top: 8, bottom: 26 };

// The probability of the label over the epochs, one line per map.
function drawTrajectories(svg, maps, row) {
  const make = (name, attributes, text) => {
    const made = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    svg.append(made);
  };
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${SVG.width} ${SVG.height}`);
  const epochs = maps.flatMap((map) => map.epochs);
  const first = Math.min(...epochs);
  const last = Math.max(...epochs);
  const across = (epoch) => SVG.left + ((epoch - first) / (last - first || 1)) * (SVG.width - SVG.left - SVG.right);
  const down = (p) => SVG.top + (1 - p) * (SVG.height - SVG.top - SVG.bottom);
  for (const p of [0, 0.5, 1]) {
    make("line", { class: "grid", x1: SVG.left, x2: SVG.width - SVG.right, y1: down(p), y2: down(p) });
    make("text", { x: SVG.left - 5, y: down(p) + 4, "text-anchor": "end" }, String(p));
  }
  const every = Math.max(1, Math.ceil((last - first + 1) / 8));
  for (let epoch = first; epoch <= last; epoch += every) {
    make("text", { x: across(epoch), y: SVG.height - 10, "text-anchor": "middle" }, String(epoch));
  }
  const said = [];
  maps.forEach((map, index) => {
    const places = map.epochs.map((epoch, at) => [epoch, map.trajectory[at][row]]).filter(([, p]) => p !== NOT_SEEN);
    const points = places.map(([epoch, p]) => `${across(epoch).toFixed(1)},${down(p / 254).toFixed(1)}`).join(" ");
    make("polyline", { class: index ? "line second" : "line first", points });
    for (const [epoch, p] of places) make("circle", { class: index ? "second" : "first", cx: across(epoch), cy: down(p / 254), r: 2.5 });
    said.push(`${map.quantity} ${map.name}: ${places.map(([epoch, p]) => `epoch ${epoch} ${(p / 254).toFixed(2)}`).join(", ")}`);
  });
  svg.setAttribute("aria-label", said.join("; "));
}

// The corrections marked so far: row -> {action: "drop"} or {action: "relabel", code}.
class Marks {
  constructor(explorer) {
    this.explorer = explorer;
    this.of = new Map();
    this.unsaved = false;
  }

  // choice: "" (keep), "drop", or the code of the new class.
  set(row, choice) {
    if (choice === "") this.of.delete(row);
    else this.of.set(row, choice === "drop" ? { action: "drop" } : { action: "relabel", code: Number(choice) });
    this.unsaved = this.of.size > 0;
    this.count();
  }

  choice(row) {
    const mark = this.of.get(row);
    if (!mark) return "";
    return mark.action === "drop" ? "drop" : String(mark.code);
  }

  count() {
    const { parts } = this.explorer;
    parts.exportCorrections.disabled = this.of.size === 0;
    parts.marked.textContent = this.of.size ? `${this.of.size.toLocaleString("en")} marked` : "none marked";
  }

  save() {
    save("corrections.csv", correctionsCsv(this.explorer.data, this.of), "text/csv");
    this.unsaved = false;
  }
}

// The control of one example's correction. The one that is used stays in its place and keeps the focus; `changed` renews others.
function markControl(data, row, marks, changed) {
  const select = element("select", undefined, { "aria-label": `Correction of ${data.ids[row]}` });
  select.append(element("option", "keep as it is", { value: "" }), element("option", "drop", { value: "drop" }));
  data.labelNames.forEach((name, code) => {
    if (data.labels && data.labels[row] !== code) select.append(element("option", `relabel: ${name}`, { value: String(code) }));
  });
  select.value = marks.choice(row);
  select.addEventListener("change", () => {
    marks.set(row, select.value);
    changed(row);
  });
  return select;
}
