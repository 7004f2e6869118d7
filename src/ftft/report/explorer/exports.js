// What leaves the page: files of ids and of corrections, and the recipe lines that make a selection.

function save(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function csvField(value) {
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

function csv(header, rows) {
  return [header, ...rows].map((row) => row.map((value) => csvField(String(value))).join(",") + "\n").join("");
}

// As `ftft select` writes a selection; scores are left out, for the page has only their ranks.
function selectionCsv(data, rows) {
  return csv(["id", "score", "weight"], Array.from(rows, (row) => [data.ids[row], "", "1.0"]));
}

// marks: row -> {action, code}
function correctionsCsv(data, marks) {
  const rows = [...marks].map(([row, mark]) => [data.ids[row], mark.action, mark.action === "relabel" ? data.labelNames[mark.code] : ""]);
  return csv(["id", "action", "label"], rows);
}

// Numbers as YAML reads them back as the same float.
function yamlNumber(value) {
  return Number.isInteger(value) ? `${value}.0` : String(value);
}

// A JSON string is a YAML string.
function yamlString(value) {
  return /^[A-Za-z_][\w./-]*$/.test(value) && !/^(y|n|yes|no|on|off|true|false|null)$/i.test(value) ? value : JSON.stringify(value);
}

function recipeLines(map, rule) {
  const settings = [`name: ${rule.name}`];
  if (rule.name === "without_suspects") settings.push(`suspect_score: ${rule.score}`, `drop_suspects: ${yamlNumber(rule.fraction)}`);
  else {
    settings.push(`score: ${rule.score}`);
    if (rule.name === "top") settings.push(`largest: ${rule.largest}`);
    settings.push(`fraction: ${yamlNumber(rule.fraction)}`);
    if (rule.balance !== "none") settings.push(`balance: ${rule.balance}`);
    if (rule.dropSuspects) settings.push(`drop_suspects: ${yamlNumber(rule.dropSuspects)}`);
  }
  const source = map.source === null ? "" : `use_dynamics_of: ${yamlString(map.source)}\n`;
  return `${source}select: {${settings.join(", ")}}\n`;
}
