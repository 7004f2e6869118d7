// Reads the page's data: base64 columns become typed arrays, missing values keep the largest number of their width.

function bytesOf(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

const COLUMN_TYPES = { 8: Uint8Array, 16: Uint16Array, 32: Uint32Array };

function columnOf(stored) {
  if (!stored) return null;
  return new COLUMN_TYPES[stored.bits](bytesOf(stored.data).buffer);
}

function noneOf(column) {
  return column instanceof Uint8Array ? 255 : column instanceof Uint16Array ? 65535 : 4294967295;
}

const NO_PLACE = 65535;
const NOT_SEEN = 255;
const MOST_VARIABILITY = 0.5;

function readData(text) {
  const raw = JSON.parse(text);
  const idOrder = columnOf(raw.id_order);
  const rowOfIdOrder = new Uint32Array(raw.n);
  for (let row = 0; row < raw.n; row++) rowOfIdOrder[idOrder[row]] = row;
  return {
    n: raw.n,
    ids: raw.ids,
    idOrder,
    rowOfIdOrder,
    labels: columnOf(raw.labels),
    labelNames: raw.label_names,
    textColumns: raw.text_columns,
    texts: raw.texts,
    regions: raw.regions,
    groups: raw.groups && { names: raw.groups.names, codes: columnOf(raw.groups.codes) },
    maps: raw.maps.map((one) => readMap(one, raw.n)),
  };
}

function readMap(one, n) {
  const present = columnOf(one.present);
  let size = 0;
  for (let row = 0; row < n; row++) size += present[row];
  return {
    name: one.name,
    source: one.source,
    byRecipe: one.by_recipe,
    quantity: one.quantity,
    epochs: one.epochs,
    present,
    size,
    x: columnOf(one.x),
    y: columnOf(one.y),
    seen: columnOf(one.seen),
    correctness: columnOf(one.correctness),
    aum: one.aum && new Float32Array(bytesOf(one.aum).buffer),
    region: columnOf(one.region),
    classes: one.classes,
    labels: columnOf(one.labels), // null: those of all maps
    preferred: columnOf(one.preferred),
    trajectory: one.trajectory.map(bytesOf),
    scores: one.scores.map((score) => ({ ...score, levels: columnOf(score.levels) })),
    selections: one.selections.map((taken) => ({ name: taken.name, chosen: columnOf(taken.chosen) })),
    orders: new Map(),
  };
}

function confidenceOf(map, row) {
  return map.y[row] === NO_PLACE ? NaN : map.y[row] / (NO_PLACE - 1);
}

function variabilityOf(map, row) {
  return map.x[row] === NO_PLACE ? NaN : (map.x[row] / (NO_PLACE - 1)) * MOST_VARIABILITY;
}

// The name of a class or group in a column of codes, "" for none.
function nameIn(names, column, row) {
  if (!column) return "";
  const code = column[row];
  return code === noneOf(column) ? "" : names[code];
}
