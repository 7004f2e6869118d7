// Which example is meant: a uniform grid over the map finds the one nearest to a pointer; arrow keys go to the next one.

const CELLS = 128;

// Rows by cell: those of cell c are items[starts[c]] to items[starts[c + 1] - 1].
function gridOf(map) {
  if (map.grid) return map.grid;
  const { x, y } = map;
  const n = x.length;
  const starts = new Uint32Array(CELLS * CELLS + 1);
  for (let row = 0; row < n; row++) {
    if (y[row] !== NO_PLACE && x[row] !== NO_PLACE) starts[cellOf(x[row], y[row]) + 1] += 1;
  }
  for (let cell = 0; cell < CELLS * CELLS; cell++) starts[cell + 1] += starts[cell];
  const items = new Uint32Array(starts[CELLS * CELLS]);
  const next = starts.slice();
  for (let row = 0; row < n; row++) {
    if (y[row] !== NO_PLACE && x[row] !== NO_PLACE) items[next[cellOf(x[row], y[row])]++] = row;
  }
  map.grid = { starts, items };
  return map.grid;
}

function cellOf(x, y) {
  return (((y * CELLS) / NO_PLACE) | 0) * CELLS + (((x * CELLS) / NO_PLACE) | 0);
}

// The row nearest to stored coordinates, at most `reachX`, `reachY` away (an ellipse: pixels are not square in them); -1.
function nearestRow(map, x, y, reachX, reachY) {
  const { starts, items } = gridOf(map);
  const cell = (value) => Math.min(CELLS - 1, Math.max(0, Math.floor((value * CELLS) / NO_PLACE)));
  let best = -1;
  let least = 1;
  for (let line = cell(y - reachY); line <= cell(y + reachY); line++) {
    for (let column = cell(x - reachX); column <= cell(x + reachX); column++) {
      const at = line * CELLS + column;
      for (let index = starts[at]; index < starts[at + 1]; index++) {
        const row = items[index];
        const across = (map.x[row] - x) / reachX;
        const down = (map.y[row] - y) / reachY;
        const distance = across * across + down * down;
        if (distance <= least) {
          least = distance;
          best = row;
        }
      }
    }
  }
  return best;
}

// The next row from `row` in a direction (dx, dy of -1, 0, 1; up is +1): ahead by at least `step`, little to the side.
function nextRow(map, row, dx, dy, step) {
  if (row < 0) return nearestRow(map, NO_PLACE / 2, NO_PLACE / 2, NO_PLACE, NO_PLACE);
  let best = row;
  let least = Infinity;
  for (let other = 0; other < map.x.length; other++) {
    if (map.y[other] === NO_PLACE) continue;
    const across = map.x[other] - map.x[row];
    const up = map.y[other] - map.y[row];
    const ahead = dx ? across * dx : up * dy;
    if (ahead < step) continue;
    const aside = Math.abs(dx ? up : across);
    const cost = ahead + 3 * aside;
    if (cost < least) {
      least = cost;
      best = other;
    }
  }
  return best;
}
