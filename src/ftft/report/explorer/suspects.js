// Likely label errors: ranked, filtered, marked.

const PAGE_ROWS = 20;
const TEXT_HEAD = "Text";

// Rows in order: by = "confidence" (below one half), "never" (never predicted right) or "aum" (negative).
function suspectRows(data, map, by) {
  const score = map.scores.find((one) => one.name === (by === "aum" ? "aum" : "confidence"));
  if (!score) return [];
  const rows = [];
  for (const row of ranked(data, map, score, false)) {
    const p = confidenceOf(map, row);
    if (by === "aum" ? map.aum[row] >= 0 : by === "confidence" && !(p < 0.5)) break;
    if (by === "never" && (!map.correctness || map.correctness[row] !== 0)) continue;
    rows.push(row);
  }
  return rows;
}

// filters: {label, preferred: class codes or "", words}
function filterSuspects(data, map, rows, filters) {
  const words = filters.words.trim().toLowerCase();
  return rows.filter((row) => {
    if (filters.label !== "" && data.labels?.[row] !== Number(filters.label)) return false;
    if (filters.preferred !== "" && map.preferred?.[row] !== Number(filters.preferred)) return false;
    if (!words) return true;
    return [data.ids[row], ...textsOf(data, row)].some((text) => text.toLowerCase().includes(words));
  });
}

function suspectLine(data, map, row, place, marks, pin, changed) {
  const line = element("tr");
  line.append(element("td", String(place)));
  const id = element("th", undefined, { scope: "row" });
  const button = element("button", data.ids[row], { type: "button", class: data.ids[row].length > 24 ? "link" : "link short" });
  button.addEventListener("click", () => pin(row));
  id.append(button);
  line.append(id);
  if (data.texts) {
    const cell = element("td", undefined, { class: "text" });
    for (const text of textsOf(data, row)) cell.append(element("span", text.length > 240 ? `${text.slice(0, 240)}…` : text));
    line.append(cell);
  }
  if (data.labels) line.append(element("td", nameIn(data.labelNames, data.labels, row) || "-"));
  if (map.preferred) line.append(element("td", nameIn(data.labelNames, map.preferred, row) || "-"));
  line.append(element("td", number3(confidenceOf(map, row))));
  if (map.correctness) line.append(element("td", rightIn(map, row)));
  if (map.aum) line.append(element("td", Number.isNaN(map.aum[row]) ? "-" : map.aum[row].toFixed(2)));
  const mark = element("td");
  mark.append(markControl(data, row, marks, changed));
  line.append(mark);
  return line;
}

function suspectHeads(data, map) {
  const heads = ["Rank", "Id"];
  if (data.texts) heads.push(TEXT_HEAD);
  if (data.labels) heads.push("Label");
  if (map.preferred) heads.push("The model prefers");
  heads.push("Confidence");
  if (map.correctness) heads.push("Right in, epochs");
  if (map.aum) heads.push("AUM");
  return [...heads, "Correction"];
}

class SuspectTable {
  constructor(explorer) {
    this.explorer = explorer;
    this.rows = [];
    this.page = 0;
  }

  show() {
    const { parts, data, map } = this.explorer;
    const filters = { label: parts.suspectLabel.value, preferred: parts.suspectPreferred.value, words: parts.suspectWords.value };
    this.rows = filterSuspects(data, map, suspectRows(data, map, parts.suspectBy.value), filters);
    this.page = 0;
    this.turn(0);
  }

  turn(by) {
    const { parts, data, map, marks } = this.explorer;
    const pages = Math.max(1, Math.ceil(this.rows.length / PAGE_ROWS));
    this.page = Math.min(pages - 1, Math.max(0, this.page + by));
    const first = this.page * PAGE_ROWS;
    const shown = this.rows.slice(first, first + PAGE_ROWS);
    const heads = element("tr");
    for (const head of suspectHeads(data, map)) heads.append(element("th", head, { scope: "col", class: head === TEXT_HEAD ? "text" : "" }));
    parts.suspectHead.replaceChildren(heads);
    const pin = (row) => this.explorer.pin(row);
    const changed = (row) => row === this.explorer.pinned && this.explorer.pin(row, false);
    parts.suspectRows.replaceChildren(
      ...shown.map((row, index) => suspectLine(data, map, row, first + index + 1, marks, pin, changed)),
    );
    const range = shown.length ? `${(first + 1).toLocaleString("en")} to ${(first + shown.length).toLocaleString("en")} of ` : "";
    parts.suspectCount.textContent = `${range}${this.rows.length.toLocaleString("en")} examples`;
    parts.suspectsBack.disabled = this.page === 0;
    parts.suspectsOn.disabled = this.page >= pages - 1;
  }
}
