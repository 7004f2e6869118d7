// What the selection holds, in words and a table: its size, its class balance, its overlap with others.

function showOutcome(explorer, rule) {
  const { parts, data, map, chosen, other } = explorer;
  parts.outcome.hidden = !chosen;
  if (!chosen) {
    parts.said.textContent = "";
    return;
  }
  const size = chosen.rows.length;
  const sentences = [`${size.toLocaleString("en")} of ${map.size.toLocaleString("en")} examples (${((100 * size) / map.size).toFixed(1)} %)`];
  const overlap = (mask, name) => {
    let both = 0;
    let theirs = 0;
    for (let row = 0; row < data.n; row++) {
      theirs += mask[row];
      both += mask[row] & chosen.mask[row];
    }
    sentences.push(`${((100 * both) / size).toFixed(1)} % of them are also ${name} (${both.toLocaleString("en")} of its ${theirs.toLocaleString("en")})`);
  };
  for (const one of map.selections) overlap(one.chosen, one.name);
  if (other && rule.name !== "lasso") {
    const there = choose(data, other, rule);
    if (!there.problem) overlap(there.mask, `in what the same rule chooses by the dynamics ${other.name}`);
  }
  parts.said.textContent = `${sentences.join("; ")}.`;
  showClasses(explorer);
}

function showClasses(explorer) {
  const { parts, data, map, chosen } = explorer;
  parts.classes.hidden = !data.labels;
  if (!data.labels) return;
  const labels = map.labels || data.labels;
  const pool = data.labelNames.map(() => 0);
  const taken = data.labelNames.map(() => 0);
  for (let row = 0; row < data.n; row++) {
    if (!map.present[row] || pool[labels[row]] === undefined) continue;
    pool[labels[row]] += 1;
    taken[labels[row]] += chosen.mask[row];
  }
  const sum = (counts) => counts.reduce((total, one) => total + one, 0) || 1;
  const [all, kept] = [sum(pool), sum(taken)];
  const shown = data.labelNames.map((name, code) => [name, code]).sort((one, two) => pool[two[1]] - pool[one[1]]).slice(0, 30);
  parts.classRows.replaceChildren(
    ...shown.map(([name, code]) => {
      const line = element("tr");
      line.append(element("th", name, { scope: "row" }));
      line.append(element("td", `${((100 * pool[code]) / all).toFixed(1)}`), element("td", `${((100 * taken[code]) / kept).toFixed(1)}`));
      line.append(element("td", taken[code].toLocaleString("en")));
      return line;
    }),
  );
}
