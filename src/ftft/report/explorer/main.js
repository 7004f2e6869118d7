// The explorer: what is shown and chosen, and the controls that change it.

class Explorer {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.parts = {};
    for (const part of root.querySelectorAll("[data-part]")) this.parts[part.dataset.part] = part;
    this.left = 0;
    this.right = data.maps.length > 1 ? 1 : -1;
    this.view = wholeView();
    this.hovered = -1;
    this.pinned = -1;
    this.chosen = null; // {rows, mask}
    this.polygon = null;
    this.drawing = null; // the lasso's corners while it is drawn
    this.marks = new Marks(this);
    this.plots = [new Plot(this.parts.canvas0), new Plot(this.parts.canvas1)];
    this.pending = false;
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.suspects = new SuspectTable(this);
    this.fillControls();
    this.listen();
    this.showMaps();
  }

  get map() {
    return this.data.maps[this.left];
  }

  get other() {
    return this.right < 0 ? null : this.data.maps[this.right];
  }

  // -- what is offered ------------------------------------------------------------------------------------------------

  fillControls() {
    const { parts, data } = this;
    data.maps.forEach((map, index) => {
      parts.left.append(element("option", map.name, { value: index }));
      parts.right.append(element("option", map.name, { value: index }));
    });
    parts.right.append(element("option", "none", { value: -1 }));
    parts.right.value = String(this.right);
    parts.mapField.hidden = parts.rightField.hidden = data.maps.length < 2;
    for (const select of [parts.suspectLabel, parts.suspectPreferred]) {
      data.labelNames.forEach((name, code) => select.append(element("option", name, { value: code })));
    }
    parts.balanceField.hidden = !data.labels;
    parts.suspectLabelField.hidden = !data.labels;
    parts.density.checked = data.n > 50000;
    this.marks.count();
  }

  fillForMap() {
    const { parts, map, data } = this;
    const kept = parts.score.value;
    parts.score.replaceChildren(...map.scores.map((score) => element("option", score.name, { value: score.name })));
    const names = map.scores.map((score) => score.name);
    parts.score.value = names.includes(kept) ? kept : names.includes("variability") ? "variability" : names[0];
    const colour = parts.colour.value;
    const offered = [["region", "region"]];
    if (map.correctness) offered.unshift(["correctness", "correctness"]);
    if (data.labels) offered.push(["class", "class"]);
    if (data.groups) offered.push(["group", "group"]);
    if (map.selections.length) offered.push(["selected", map.selections[0].name]);
    if (this.other) offered.push(["moved", "distance to the second map"]);
    parts.colour.replaceChildren(...offered.map(([value, words]) => element("option", words, { value })));
    parts.colour.value = offered.some(([value]) => value === colour) ? colour : offered[0][0];
    parts.suspectPreferredField.hidden = !map.preferred;
    const criteria = [["confidence", "confidence below 0.5, lowest first"]];
    if (map.correctness) criteria.push(["never", "never learnt: right in no epoch"]);
    if (map.aum) criteria.push(["aum", "negative AUM, lowest first"]);
    const by = parts.suspectBy.value;
    parts.suspectBy.replaceChildren(...criteria.map(([value, words]) => element("option", words, { value })));
    parts.suspectBy.value = criteria.some(([value]) => value === by) ? by : "confidence";
  }

  showMaps() {
    const { parts, map, other } = this;
    this.fillForMap();
    parts.side1.hidden = !other;
    parts.caption0.textContent = `Data map ${map.name}`;
    if (other) parts.caption1.textContent = `Data map ${other.name}`;
    parts.stage.classList.toggle("pair", Boolean(other));
    [map, other].forEach((one, index) => {
      if (!one) return;
      const keys = "Arrow keys go from point to point, Enter pins one, plus and minus magnify, 0 shows all.";
      parts[`canvas${index}`].setAttribute("aria-label", `Data map ${one.name}: ${one.size} examples, confidence over variability. ${keys}`);
    });
    this.recolour();
    this.rule();
    this.suspects.show();
    if (this.pinned >= 0) this.pin(this.pinned, false);
  }

  recolour() {
    const { data, parts } = this;
    this.theme = themeOf(this.root);
    const current = this.map.selections[0]?.chosen;
    const by = parts.colour.value;
    this.looks = [this.map, this.other].map((map, index) => {
      if (!map) return null;
      const compared = index ? this.map : this.other;
      const usable = by !== "correctness" || map.correctness;
      const found = colouring(data, map, compared, usable ? by : "region", current);
      return {
        found,
        colours: found.codes,
        palette: paletteOf(found, this.theme),
        ramp: rampOf(this.theme),
        paper: mixed(this.theme.paper, this.theme.paper, 0),
        shown: map.size,
        mask: null,
        density: false,
      };
    });
    this.legend();
    this.redraw();
  }

  legend() {
    const { parts } = this;
    const { found } = this.looks[0];
    const items = parts.density.checked
      ? [["--mark", "darker or stronger: more examples (logarithm of their number)"]]
      : found.names.map((name, index) => [found.colours[index], name]);
    parts.legend.replaceChildren(
      ...items.map(([colour, words]) => {
        const item = element("li");
        const dot = element("span", undefined, { class: "dot", "aria-hidden": "true" });
        dot.style.background = `var(${colour})`;
        item.append(dot, document.createTextNode(words));
        return item;
      }),
    );
  }

  // -- drawing --------------------------------------------------------------------------------------------------------

  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.render();
    });
  }

  render() {
    clampView(this.view);
    [this.map, this.other].forEach((map, index) => {
      if (!map) return;
      const plot = this.plots[index];
      plot.resize();
      const look = this.looks[index];
      look.mask = this.parts.fade.checked && this.chosen ? this.chosen.mask : null;
      look.density = this.parts.density.checked;
      plot.draw(map, this.view, look, this.theme);
      const corners = this.drawing || (this.parts.rule.value === "lasso" ? this.polygon : null);
      if (index === 0) plot.outline(corners, this.view, this.theme.ink, !this.drawing);
      plot.ring(map, this.hovered, this.view, this.theme.ink, 7);
      plot.ring(map, this.pinned, this.view, this.theme.mark, 9);
    });
    this.parts.canvas0.style.touchAction = this.lassoing() || this.view.zoom > 1 ? "none" : "pan-y pinch-zoom";
    this.parts.canvas1.style.touchAction = this.parts.canvas0.style.touchAction;
  }

  zoom(times, index = 0, x = null, y = null) {
    const plot = this.plots[index];
    const [beforeX, beforeY] = x === null ? [this.view.x * MOST_VARIABILITY, this.view.y] : plot.valuesAt(x, y, this.view);
    this.view.zoom = Math.min(MOST_ZOOM, Math.max(1, this.view.zoom * times));
    if (x !== null) {
      const [afterX, afterY] = plot.valuesAt(x, y, this.view);
      this.view.x += (beforeX - afterX) / MOST_VARIABILITY;
      this.view.y += beforeY - afterY;
    }
    this.redraw();
  }

  // -- listening ------------------------------------------------------------------------------------------------------

  listen() {
    const { parts } = this;
    const on = (part, event, act) => parts[part].addEventListener(event, act);
    on("left", "change", () => {
      this.left = Number(parts.left.value);
      this.showMaps();
    });
    on("right", "change", () => {
      this.right = Number(parts.right.value);
      this.showMaps();
    });
    on("colour", "change", () => this.recolour());
    on("density", "change", () => {
      this.legend();
      this.redraw();
    });
    on("fade", "change", () => this.redraw());
    on("zoomIn", "click", () => this.zoom(1.5));
    on("zoomOut", "click", () => this.zoom(1 / 1.5));
    on("zoomAll", "click", () => {
      this.view = wholeView();
      this.redraw();
    });
    on("share", "input", () => this.setShare(Number(parts.share.value)));
    on("shareNumber", "change", () => this.setShare(Number(parts.shareNumber.value)));
    for (const part of ["rule", "score", "balance", "dropSuspects"]) on(part, "change", () => this.rule());
    on("limits", "submit", (event) => {
      event.preventDefault();
      this.limit();
    });
    on("exportIds", "click", () => this.chosen && save("selection.csv", selectionCsv(this.data, this.chosen.rows), "text/csv"));
    on("exportRecipe", "click", () => this.lines && save("select.yaml", this.lines, "text/yaml"));
    on("exportCorrections", "click", () => this.marks.save());
    for (const part of ["suspectBy", "suspectLabel", "suspectPreferred"]) on(part, "change", () => this.suspects.show());
    on("suspectWords", "input", () => this.suspects.show());
    on("suspectsBack", "click", () => this.suspects.turn(-1));
    on("suspectsOn", "click", () => this.suspects.turn(1));
    this.plots.forEach((plot, index) => listenToCanvas(this, plot.canvas, index));
    new ResizeObserver(() => this.redraw()).observe(parts.stage);
    this.dark.addEventListener("change", () => this.recolour());
    window.addEventListener("beforeunload", (event) => this.marks.unsaved && event.preventDefault());
  }

  lassoing() {
    return this.parts.lasso.checked;
  }

  row(index, x, y) {
    const plot = this.plots[index];
    const map = index ? this.other : this.map;
    const [variability, confidence] = plot.valuesAt(x, y, this.view);
    const reach = (pixels, size) => (pixels * plot.ratio * (NO_PLACE - 1)) / (size * this.view.zoom);
    return nearestRow(
      map,
      (variability / MOST_VARIABILITY) * (NO_PLACE - 1),
      confidence * (NO_PLACE - 1),
      reach(12, plot.width),
      reach(12, plot.height),
    );
  }

  hover(index, row, x, y) {
    const box = this.parts[`tip${index}`];
    this.parts[`tip${1 - index}`].hidden = true;
    if (row < 0) box.hidden = true;
    else showTooltip(box, this.data, index ? this.other : this.map, row, x, y);
    if (row !== this.hovered) {
      this.hovered = row;
      this.redraw();
    }
  }

  step(index, dx, dy) {
    const map = index ? this.other : this.map;
    const plot = this.plots[index];
    const step = ((dx ? 3 / plot.width : 3 / plot.height) * plot.ratio * NO_PLACE) / this.view.zoom;
    const row = nextRow(map, this.hovered, dx, dy, step);
    if (row < 0) return;
    const place = plot.placeOf(map, row, this.view);
    if (!place) {
      this.view.x = map.x[row] / NO_PLACE;
      this.view.y = map.y[row] / NO_PLACE;
      clampView(this.view);
    }
    const [x, y] = plot.placeOf(map, row, this.view);
    this.hover(index, row, x, y);
    this.parts.spoken.textContent = `${this.data.ids[row]}, confidence ${number3(confidenceOf(map, row))}, variability ${number3(variabilityOf(map, row))}`;
  }

  pin(row, speak = true) {
    const { parts, data } = this;
    this.pinned = row;
    const maps = [this.map, this.other].filter((map) => map && map.present[row]);
    parts.noExample.hidden = true;
    parts.example.hidden = false;
    parts.exampleId.textContent = data.ids[row];
    parts.exampleText.replaceChildren(
      ...textsOf(data, row).flatMap((text, index) => [element("dt", data.textColumns[index]), element("dd", text)]),
    );
    const facts = [...factsOf(data, maps[0] || this.map, row), ...(maps[1] ? placeFacts(maps[1], row) : [])];
    parts.facts.replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
    parts.trajectory.hidden = maps.length === 0;
    if (maps.length) drawTrajectories(parts.trajectory, maps, row);
    parts.trajectoryNote.textContent = maps.map((map, index) => `${index ? "Dashed" : "Line"}: ${map.quantity}, ${map.name}.`).join(" ");
    parts.exampleMark.replaceChildren(element("span", "Correction "), markControl(data, row, this.marks, () => this.suspects.turn(0)));
    if (speak) parts.spoken.textContent = sentenceOf(data, maps[0] || this.map, row);
    this.redraw();
  }

  // -- the selection --------------------------------------------------------------------------------------------------

  setShare(share) {
    const { parts } = this;
    const kept = Math.min(1, Math.max(0.001, Number(share.toFixed(6)) || 0.001));
    parts.share.value = String(kept);
    parts.shareNumber.value = String(kept);
    this.rule();
  }

  lasso(polygon) {
    this.polygon = polygon;
    this.parts.rule.value = "lasso";
    this.rule();
  }

  limit() {
    const [left, right, low, high] = ["fromX", "toX", "fromY", "toY"].map((part) => Number(this.parts[part].value));
    // A little wider than asked, so that what lies on a limit is inside.
    const e = 1e-6;
    this.lasso([
      [left - e, low - e],
      [right + e, low - e],
      [right + e, high + e],
      [left - e, high + e],
    ]);
  }

  currentRule() {
    const { parts } = this;
    const [name, end] = parts.rule.value.split(" ");
    return {
      name,
      largest: end !== "lowest",
      score: parts.score.value,
      fraction: Number(parts.shareNumber.value),
      balance: name === "without_suspects" ? "none" : parts.balance.value,
      dropSuspects: name === "without_suspects" ? 0 : Number(parts.dropSuspects.value) / 100,
    };
  }

  rule() {
    const { parts, data, map } = this;
    const rule = this.currentRule();
    const byHand = rule.name === "lasso";
    parts.shareWords.textContent = rule.name === "without_suspects" ? "Fraction dropped" : "Fraction chosen";
    for (const part of ["score", "share", "shareNumber"]) parts[part].disabled = byHand;
    for (const part of ["balance", "dropSuspects"]) parts[part].disabled = byHand || rule.name === "without_suspects";
    if (rule.name === "without_suspects" && !["confidence", "aum"].includes(rule.score)) {
      rule.score = parts.score.value = "confidence";
    }
    const found = byHand
      ? this.polygon
        ? insidePolygon(data, map, this.polygon)
        : { problem: "Draw a lasso on the first map, or set limits." }
      : choose(data, map, rule);
    this.chosen = found.problem ? null : found;
    parts.problem.textContent = found.problem || "";
    parts.exportIds.disabled = !this.chosen;
    this.lines = this.chosen && !byHand && map.byRecipe ? recipeLines(map, rule) : "";
    parts.exportRecipe.disabled = !this.lines;
    parts.recipe.textContent = this.lines || (byHand ? "A lasso is no rule: export its ids." : "These scores are not offered to a recipe: export the ids.");
    showOutcome(this, rule);
    this.redraw();
  }
}
