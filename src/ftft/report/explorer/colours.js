// What colour a point has: entries of a palette per colouring, with their words for the legend.

const MOST_KINDS = 8;

function themeOf(root) {
  const style = getComputedStyle(root);
  const read = (name) => style.getPropertyValue(name).trim();
  return { read, paper: read("--paper"), ink: read("--ink"), soft: read("--soft"), mark: read("--mark") };
}

function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// A little-endian pixel of two mixed colours: share 0 is all `one`.
function mixed(one, other, share) {
  const [r, g, b] = channels(one).map((value, index) => Math.round(value + (channels(other)[index] - value) * share));
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

// {codes: Uint8Array of palette entries, names, colours (CSS variables)}; entry names.length is "none".
function colouring(data, map, other, by, current) {
  const codes = new Uint8Array(data.n);
  if (by === "correctness") return byCorrectness(data, map, codes);
  if (by === "class") return byNames(data, data.labels, data.labelNames, codes, "class");
  if (by === "group") return byNames(data, data.groups.codes, data.groups.names, codes, "group");
  if (by === "moved") return byMove(data, map, other, codes);
  if (by === "selected") {
    for (let row = 0; row < data.n; row++) codes[row] = current && current[row] ? 0 : 1;
    return { codes, names: ["selected", "not selected"], colours: ["--g1", "--g0"] };
  }
  const none = noneOf(map.region);
  for (let row = 0; row < data.n; row++) codes[row] = map.region[row] === none ? 3 : map.region[row];
  return { codes, names: data.regions, colours: ["--g1", "--g2", "--g3"] };
}

function byCorrectness(data, map, codes) {
  const none = noneOf(map.correctness);
  for (let row = 0; row < data.n; row++) {
    const share = map.correctness[row] / map.seen[row];
    codes[row] = map.correctness[row] === none || !map.seen[row] ? 5 : Math.min(4, Math.floor(share * 5));
  }
  const names = ["0 to 19 %", "20 to 39 %", "40 to 59 %", "60 to 79 %", "80 to 100 %"].map((span) => `right in ${span} of epochs`);
  return { codes, names, colours: ["--c0", "--c1", "--c2", "--c3", "--c4"] };
}

function byNames(data, column, names, codes, what) {
  const none = noneOf(column);
  const sizes = names.map((_, code) => [0, code]);
  for (let row = 0; row < data.n; row++) if (column[row] !== none) sizes[column[row]][0] += 1;
  sizes.sort((one, other) => other[0] - one[0] || one[1] - other[1]);
  const own = names.length > MOST_KINDS - 1 ? MOST_KINDS - 2 : names.length;
  const entry = new Uint8Array(names.length).fill(own);
  sizes.slice(0, own).forEach(([, code], index) => (entry[code] = index));
  const rest = names.length - own;
  const shown = sizes.slice(0, own).map(([, code]) => names[code]);
  if (rest) shown.push(`${rest} other ${what === "class" ? "classes" : "groups"}`);
  for (let row = 0; row < data.n; row++) codes[row] = column[row] === none ? shown.length : entry[column[row]];
  const order = ["--g2", "--g1", "--g3", "--g5", "--g4", "--g7", "--g6", "--g0"];
  return { codes, names: shown, colours: order.slice(0, shown.length) };
}

const MOVES = [0.05, 0.1, 0.2, 0.4];

function byMove(data, map, other, codes) {
  for (let row = 0; row < data.n; row++) {
    if (map.y[row] === NO_PLACE || other.y[row] === NO_PLACE) {
      codes[row] = 5;
      continue;
    }
    const far = Math.hypot(
      variabilityOf(map, row) - variabilityOf(other, row),
      confidenceOf(map, row) - confidenceOf(other, row),
    );
    codes[row] = MOVES.filter((limit) => far >= limit).length;
  }
  const names = ["under 0.05", "0.05 to 0.1", "0.1 to 0.2", "0.2 to 0.4", "0.4 and more"].map((span) => `moved by ${span}`);
  return { codes, names, colours: ["--c2", "--c3", "--c4", "--c1", "--c0"] };
}

// The palette of a colouring: its colours, "none", and from FADED on the same mixed into the paper.
function paletteOf(found, theme) {
  const palette = new Uint32Array(2 * FADED);
  [...found.colours.map(theme.read), theme.soft].forEach((colour, index) => {
    palette[index] = mixed(colour, theme.paper, 0);
    palette[index + FADED] = mixed(colour, theme.paper, 0.82);
  });
  return palette;
}

function rampOf(theme) {
  return Uint32Array.from({ length: DENSITY_STEPS }, (_, step) => mixed(theme.paper, theme.mark, 0.12 + (0.88 * step) / (DENSITY_STEPS - 1)));
}
