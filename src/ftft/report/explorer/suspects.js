// Likely label errors: ranked, filtered, marked.

const PAGE_ROWS = 20;

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
  const button = element("button", data.ids[row], { type: "button", class: "link" });
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
  if (data.texts) heads.push("Text");
  if (data.labels) heads.push("Label");
  if (map.preferred) heads.push("The model prefers");
  heads.push("Confidence");
  if (map.correctness) heads.push("Right in, epochs");
  if (map.aum) heads.push("AUM");
  return [...heads, "Correction"];
}
