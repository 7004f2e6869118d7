// The selectors' rules, example for example as in ftft.methods.select: ranks are exact, equal scores go by ascending id.

// floor(fraction * n); a product that is whole but for rounding counts as whole.
function wholePart(fraction, n) {
  const product = fraction * n;
  const nearest = Math.round(product);
  return Math.abs(product - nearest) <= 2 * unitInTheLastPlace(product) ? nearest : Math.floor(product);
}

function unitInTheLastPlace(value) {
  if (value === 0) return Number.MIN_VALUE;
  const exponent = Math.floor(Math.log2(Math.abs(value)));
  let unit = 2 ** (exponent - 52);
  if (2 ** exponent > Math.abs(value)) unit /= 2; // log2 was rounded up
  if (2 ** (exponent + 1) <= Math.abs(value)) unit *= 2; // or down
  return unit;
}

function subsetSize(fraction, n) {
  return Math.max(1, wholePart(fraction, n));
}

// Rows with a score, best first.
function ranked(data, map, score, largest) {
  const key = `${score.name} ${largest}`;
  if (map.orders.has(key)) return map.orders.get(key);
  const { levels } = score;
  const none = noneOf(levels);
  let top = 0;
  let scored = 0;
  for (let row = 0; row < data.n; row++) {
    if (levels[row] === none) continue;
    scored += 1;
    if (levels[row] > top) top = levels[row];
  }
  const keys = new Float64Array(scored); // below 2^53 up to 90 million examples
  let at = 0;
  for (let row = 0; row < data.n; row++) {
    if (levels[row] === none) continue;
    keys[at++] = (largest ? top - levels[row] : levels[row]) * data.n + data.idOrder[row];
  }
  keys.sort();
  const order = Uint32Array.from(keys, (value) => data.rowOfIdOrder[value % data.n]);
  map.orders.set(key, order);
  return order;
}

// k seats in proportion to whole-number shares: whole parts first, then the largest remainders, ties by index.
function largestRemainder(k, shares) {
  const total = shares.reduce((sum, share) => sum + share, 0);
  const seats = shares.map((share) => Math.floor((k * share) / total));
  const left = shares.map((share, index) => [(k * share) % total, index]);
  left.sort((one, other) => other[0] - one[0] || one[1] - other[1]);
  const missing = k - seats.reduce((sum, seat) => sum + seat, 0);
  for (const [, index] of left.slice(0, missing)) seats[index] += 1;
  return seats;
}

// As largestRemainder, at most `room` each; what a full class cannot take goes to the others.
function allocate(k, shares, room) {
  let unbounded = room.map((places) => places > 0);
  let quota = room.map(() => 0);
  while (k > 0) {
    const left = k - room.reduce((sum, places, index) => sum + (unbounded[index] ? 0 : places), 0);
    let wanted = shares.map((share, index) => (unbounded[index] ? share : 0));
    if (!wanted.some(Boolean)) wanted = unbounded.map(Number);
    quota = room.slice();
    if (wanted.some(Boolean)) {
      const seats = largestRemainder(left, wanted);
      quota = quota.map((places, index) => (unbounded[index] ? seats[index] : places));
    }
    const over = unbounded.map((free, index) => free && quota[index] > room[index]);
    if (!over.some(Boolean)) break;
    unbounded = unbounded.map((free, index) => free && !over[index]);
  }
  return quota;
}

const HARD_SHARE = [7, 3]; // of both_ends: seven tenths from the hard end

// What a rule chooses: {rows (best first), mask} or {problem}. rule: {name, score, largest, fraction, balance, dropSuspects}.
function choose(data, map, rule) {
  const score = map.scores.find((one) => one.name === rule.score);
  if (!score) return { problem: `The dynamics ${map.name} hold no score "${rule.score}".` };
  if (rule.name === "without_suspects") return withoutSuspects(data, map, score, rule.fraction);
  const suspects = suspectsOf(data, map, rule.dropSuspects);
  if (!suspects) return { problem: "Likely label errors can only be dropped where there is a confidence." };
  const hardIsLarge = score.direction === "highest";
  const parts =
    rule.name === "both_ends"
      ? [ranked(data, map, score, hardIsLarge), ranked(data, map, score, !hardIsLarge)]
      : [ranked(data, map, score, rule.largest)];
  const shares = rule.name === "both_ends" ? HARD_SHARE : [1];
  const k = subsetSize(rule.fraction, map.size);
  const none = noneOf(score.levels);
  const free = new Uint8Array(data.n);
  let available = 0;
  for (let row = 0; row < data.n; row++) {
    free[row] = score.levels[row] !== none && !suspects[row] ? 1 : 0;
    available += free[row];
  }
  if (k > available) {
    return { problem: `${k} of ${map.size} examples cannot be chosen: only ${available} have a score and are not dropped.` };
  }
  const { stratumOf, quotas, problem } = strataOf(data, map, rule.balance, k, free);
  if (problem) return { problem };
  const rows = [];
  const left = quotas.map((quota) => largestRemainder(quota, shares));
  parts.forEach((order, part) => {
    for (let place = 0; place < order.length; place++) {
      const row = order[place];
      const stratum = stratumOf ? stratumOf[row] : 0;
      if (!free[row] || !(left[stratum]?.[part] > 0)) continue;
      left[stratum][part] -= 1;
      free[row] = 0;
      rows.push(row);
    }
  });
  return finished(data, rows);
}

function finished(data, rows) {
  const mask = new Uint8Array(data.n);
  for (const row of rows) mask[row] = 1;
  return { rows, mask };
}

function suspectsOf(data, map, share) {
  const dropped = new Uint8Array(data.n);
  if (!share) return dropped;
  const confidence = map.scores.find((one) => one.name === "confidence");
  if (!confidence) return null;
  const lowest = ranked(data, map, confidence, false);
  for (const row of lowest.subarray(0, wholePart(share, map.size))) dropped[row] = 1;
  return dropped;
}

function strataOf(data, map, balance, k, free) {
  if (balance === "none") return { stratumOf: null, quotas: [k] };
  if (!data.labels) return { problem: "Balancing over classes needs labels, and these dynamics hold none." };
  // The classes in the map's own order, by which equal remainders are shared out.
  const labels = map.labels || data.labels;
  const room = map.classes.map(() => 0);
  const pool = map.classes.map(() => 0);
  const places = new Map(map.classes.map((code, place) => [code, place]));
  const stratumOf = new Uint32Array(data.n).fill(map.classes.length); // of no class
  for (let row = 0; row < data.n; row++) {
    const place = places.get(labels[row]);
    if (!map.present[row] || place === undefined) continue;
    stratumOf[row] = place;
    pool[place] += 1;
    if (free[row]) room[place] += 1;
  }
  return { stratumOf, quotas: allocate(k, balance === "class" ? pool.map(() => 1) : pool, room) };
}

// Every example of the map but the floor(share * N) lowest, by ascending id.
function withoutSuspects(data, map, score, share) {
  if (!["confidence", "aum"].includes(score.name)) {
    return { problem: "Likely label errors are those of the lowest confidence or AUM; choose one of these scores." };
  }
  const dropped = new Uint8Array(data.n);
  for (const row of ranked(data, map, score, false).subarray(0, wholePart(share, map.size))) dropped[row] = 1;
  const rows = [];
  for (const row of data.rowOfIdOrder) if (map.present[row] && !dropped[row]) rows.push(row);
  return rows.length ? finished(data, rows) : { problem: "Nothing would be left." };
}

// The examples whose place lies inside a polygon of [variability, confidence] corners, by ascending id.
function insidePolygon(data, map, polygon) {
  const xs = polygon.map(([x]) => (x / MOST_VARIABILITY) * (NO_PLACE - 1));
  const ys = polygon.map(([, y]) => y * (NO_PLACE - 1));
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const rows = [];
  for (const row of data.rowOfIdOrder) {
    const x = map.x[row];
    const y = map.y[row];
    if (x === NO_PLACE || y === NO_PLACE || x < left || x > right || y < low || y > high) continue;
    if (isInside(xs, ys, x, y)) rows.push(row);
  }
  return rows.length ? finished(data, rows) : { problem: "No example lies inside." };
}

function isInside(xs, ys, x, y) {
  let inside = false;
  for (let i = 0, j = xs.length - 1; i < xs.length; j = i++) {
    if (ys[i] > y !== ys[j] > y && x < ((xs[j] - xs[i]) * (y - ys[i])) / (ys[j] - ys[i]) + xs[i]) inside = !inside;
  }
  return inside;
}
