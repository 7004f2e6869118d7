// One canvas with one map: pixels are written from typed arrays into an ImageData, axes are drawn over them.

const MARGIN = { left: 46, right: 10, top: 10, bottom: 40 }; // CSS pixels
const DENSITY_STEPS = 32;
const FADED = 32; // palette entries from here on are the faded colours
const MOST_ZOOM = 400;
const ROUNDING = 1e-6; // pixels by which a computed place may miss the edge it lies on

// The part of the map that is shown, shared by all plots: its middle in shares of the axes, and the magnification.
function wholeView() {
  return { x: 0.5, y: 0.5, zoom: 1 };
}

function clampView(view) {
  view.zoom = Math.min(MOST_ZOOM, Math.max(1, view.zoom));
  const half = 0.5 / view.zoom;
  view.x = Math.min(1 - half, Math.max(half, view.x));
  view.y = Math.min(1 - half, Math.max(half, view.y));
}

class Plot {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.ratio = 1;
    this.milliseconds = 0; // of the last drawing
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.ratio = Math.min(2, window.devicePixelRatio || 1);
    const width = Math.max(80, Math.round(box.width * this.ratio));
    const height = Math.max(80, Math.round(box.height * this.ratio));
    if (this.canvas.width === width && this.canvas.height === height && this.image) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.left = Math.round(MARGIN.left * this.ratio);
    this.top = Math.round(MARGIN.top * this.ratio);
    this.width = width - this.left - Math.round(MARGIN.right * this.ratio);
    this.height = height - this.top - Math.round(MARGIN.bottom * this.ratio);
    this.image = this.context.createImageData(this.width, this.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.held = new Uint8Array(this.pixels.length);
  }

  // Stored coordinate -> pixel of the area: place = slope * stored + offset.
  scales(view) {
    const xSlope = (this.width * view.zoom) / (NO_PLACE - 1);
    const ySlope = (-this.height * view.zoom) / (NO_PLACE - 1);
    return {
      xSlope,
      xOffset: this.width * (0.5 - view.x * view.zoom),
      ySlope,
      yOffset: this.height * (0.5 + view.y * view.zoom),
    };
  }

  // CSS pixels of the canvas of a row's place, or null where it has none or lies outside.
  placeOf(map, row, view) {
    if (row < 0 || map.x[row] === NO_PLACE || map.y[row] === NO_PLACE) return null;
    const scale = this.scales(view);
    const x = scale.xSlope * map.x[row] + scale.xOffset;
    const y = scale.ySlope * map.y[row] + scale.yOffset;
    if (x < 0 || y < 0 || x > this.width || y > this.height) return null;
    return [(x + this.left) / this.ratio, (y + this.top) / this.ratio];
  }

  // CSS pixels of the canvas -> [variability, confidence].
  valuesAt(x, y, view) {
    const across = (x * this.ratio - this.left) / this.width;
    const down = (y * this.ratio - this.top) / this.height;
    return [((across - 0.5) / view.zoom + view.x) * MOST_VARIABILITY, (0.5 - down) / view.zoom + view.y];
  }

  // look: {colours: Uint8Array of palette entries, palette: Uint32Array, mask: Uint8Array or null, density, ramp, paper}
  draw(map, view, look, theme) {
    const started = performance.now();
    this.pixels.fill(look.paper);
    if (look.density) this.drawDensity(map, view, look);
    else this.drawPoints(map, view, look);
    const { context } = this;
    context.fillStyle = theme.paper;
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    context.putImageData(this.image, this.left, this.top);
    this.drawAxes(view, theme);
    this.milliseconds = performance.now() - started;
  }

  // One pass over all rows. What the mask leaves out is faded and never covers what it holds: `held` says where that is.
  drawPoints(map, view, look) {
    const { x, y } = map;
    const { colours, palette, mask } = look;
    const { width, height, pixels, held } = this;
    const { xSlope, xOffset, ySlope, yOffset } = this.scales(view);
    const radius = this.radiusOf(look.shown, view);
    const steps = discOf(radius);
    const margin = radius < 1 ? 0 : radius;
    const n = x.length;
    if (mask) held.fill(0);
    for (let row = 0; row < n; row++) {
      const placeX = xSlope * x[row] + xOffset;
      const placeY = ySlope * y[row] + yOffset;
      const across = isEdge(placeX, width) ? width - 1 + margin : (placeX + margin) | 0;
      const down = isEdge(placeY, height) ? height - 1 + margin : (placeY + margin) | 0;
      if (across < 0 || down < 0 || across >= width + 2 * margin || down >= height + 2 * margin) continue;
      if (y[row] === NO_PLACE || x[row] === NO_PLACE) continue;
      const faded = mask !== null && mask[row] === 0;
      const colour = palette[faded ? colours[row] + FADED : colours[row]];
      for (let step = 0; step < steps.length; step += 2) {
        const px = across - margin + steps[step];
        const py = down - margin + steps[step + 1];
        if (px < 0 || py < 0 || px >= width || py >= height) continue;
        const at = py * width + px;
        if (faded) {
          if (held[at] === 0) pixels[at] = colour;
        } else {
          pixels[at] = colour;
          held[at] = 1;
        }
      }
    }
  }

  // Device pixels; the more are shown the smaller, and larger again where the view is magnified. 0: one pixel, 0.5: four.
  radiusOf(shown, view) {
    const inView = shown / view.zoom ** 1.4;
    const css = inView > 60000 ? 0.5 : inView > 15000 ? 0.9 : inView > 4000 ? 1.5 : inView > 1000 ? 2.2 : 3;
    const radius = css * this.ratio;
    return radius < 0.6 ? 0 : radius < 1 ? 0.5 : Math.round(radius);
  }

  // The logarithm of how many lie in every cell of a few pixels.
  drawDensity(map, view, look) {
    const cell = Math.max(2, Math.round(3 * this.ratio));
    const columns = Math.ceil(this.width / cell);
    const lines = Math.ceil(this.height / cell);
    const counts = new Uint32Array(columns * lines);
    const { xSlope, xOffset, ySlope, yOffset } = this.scales(view);
    const { x, y } = map;
    const { mask } = look;
    let most = 0;
    for (let row = 0; row < x.length; row++) {
      if (y[row] === NO_PLACE || x[row] === NO_PLACE || (mask && !mask[row])) continue;
      const across = pixelOf(xSlope * x[row] + xOffset, this.width);
      const down = pixelOf(ySlope * y[row] + yOffset, this.height);
      if (across < 0 || down < 0) continue;
      const at = ((down / cell) | 0) * columns + ((across / cell) | 0);
      const count = ++counts[at];
      if (count > most) most = count;
    }
    const scale = (DENSITY_STEPS - 1) / Math.log(most + 1);
    for (let line = 0; line < this.height; line++) {
      const from = ((line / cell) | 0) * columns;
      for (let column = 0; column < columns; column++) {
        const count = counts[from + column];
        if (!count) continue;
        const start = line * this.width + column * cell;
        this.pixels.fill(
          look.ramp[Math.ceil(Math.log(count + 1) * scale)],
          start,
          Math.min(start + cell, (line + 1) * this.width),
        );
      }
    }
  }

  drawAxes(view, theme) {
    const { context, ratio, left, top, width, height } = this;
    context.save();
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.fillStyle = theme.soft;
    context.strokeStyle = theme.soft;
    context.lineWidth = ratio;
    context.strokeRect(left - 0.5, top - 0.5, width + 1, height + 1);
    const [lowX, highY] = this.valuesAt(left / ratio, top / ratio, view);
    const [highX, lowY] = this.valuesAt((left + width) / ratio, (top + height) / ratio, view);
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const value of ticks(lowX, highX, width / ratio / 90)) {
      const x = left + ((value - lowX) / (highX - lowX)) * width;
      context.fillRect(x, top + height, ratio, 4 * ratio);
      context.fillText(tickText(value), Math.min(x, left + width - 8 * ratio), top + height + 6 * ratio);
    }
    context.fillText("variability over the epochs", left + width / 2, top + height + 22 * ratio);
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const value of ticks(lowY, highY, height / ratio / 60)) {
      const y = top + height - ((value - lowY) / (highY - lowY)) * height;
      context.fillRect(left - 4 * ratio, y, 4 * ratio, ratio);
      context.fillText(tickText(value), left - 6 * ratio, Math.max(y, top + 6 * ratio));
    }
    context.translate(10 * ratio, top + height / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText("confidence", 0, 0);
    context.restore();
  }

  ring(map, row, view, colour, radius) {
    const place = this.placeOf(map, row, view);
    if (!place) return;
    const { context, ratio } = this;
    context.save();
    context.lineWidth = 2 * ratio;
    context.strokeStyle = colour;
    context.beginPath();
    context.arc(place[0] * ratio, place[1] * ratio, radius * ratio, 0, 2 * Math.PI);
    context.stroke();
    context.restore();
  }

  outline(polygon, view, colour, closed) {
    if (!polygon || polygon.length < 2) return;
    const { context, ratio } = this;
    context.save();
    context.beginPath();
    context.rect(this.left, this.top, this.width, this.height);
    context.clip();
    context.beginPath();
    for (const [x, y] of polygon) {
      const across = ((x / MOST_VARIABILITY - view.x) * view.zoom + 0.5) * this.width + this.left;
      const down = (0.5 - (y - view.y) * view.zoom) * this.height + this.top;
      context.lineTo(across, down);
    }
    if (closed) context.closePath();
    context.lineWidth = 1.5 * ratio;
    context.setLineDash([5 * ratio, 3 * ratio]);
    context.strokeStyle = colour;
    context.stroke();
    context.restore();
  }
}

// Whether a place lies on the far edge of `size` pixels, which belongs to the last of them.
function isEdge(place, size) {
  return place >= size && place <= size + ROUNDING;
}

// The pixel of `size` that a place lies in, -1 beyond them.
function pixelOf(place, size) {
  if (place < -ROUNDING || place > size + ROUNDING) return -1;
  return Math.min(size - 1, Math.max(0, place | 0));
}

function discOf(radius) {
  if (radius < 1) return Int32Array.from(radius ? [0, 0, 1, 0, 0, 1, 1, 1] : [0, 0]);
  const steps = [];
  for (let dx = -radius; dx <= radius; dx++) {
    for (let dy = -radius; dy <= radius; dy++) {
      if (dx * dx + dy * dy <= (radius + 0.3) ** 2) steps.push(dx, dy);
    }
  }
  return Int32Array.from(steps);
}

function ticks(low, high, about) {
  const rough = (high - low) / Math.max(2, about);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((one) => one >= rough);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

function tickText(value) {
  return String(Number(value.toFixed(6)));
}
