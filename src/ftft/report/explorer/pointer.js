// Pointer, wheel and keys on a canvas.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function listenToCanvas(explorer, canvas, index) {
  let start = null; // where a drag began: {x, y, view, moved}
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const [x, y] = place(event);
    canvas.setPointerCapture(event.pointerId);
    start = { x, y, view: { ...explorer.view }, moved: false };
    if (explorer.lassoing() && index === 0) explorer.drawing = [explorer.plots[0].valuesAt(x, y, explorer.view)];
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (!start) {
      explorer.hover(index, explorer.row(index, x, y), x, y);
      return;
    }
    start.moved ||= Math.hypot(x - start.x, y - start.y) > 4;
    if (explorer.drawing) explorer.drawing.push(explorer.plots[0].valuesAt(x, y, explorer.view));
    else if (start.moved) {
      const plot = explorer.plots[index];
      explorer.view.x = start.view.x - ((x - start.x) * plot.ratio) / plot.width / explorer.view.zoom;
      explorer.view.y = start.view.y + ((y - start.y) * plot.ratio) / plot.height / explorer.view.zoom;
    }
    explorer.redraw();
  });
  const end = (event) => {
    if (!start) return;
    const [x, y] = place(event);
    const { moved } = start;
    const corners = explorer.drawing;
    start = null;
    explorer.drawing = null;
    if (corners && moved && corners.length > 2) explorer.lasso(corners);
    else if (!moved && event.type === "pointerup") {
      const row = explorer.row(index, x, y);
      if (row >= 0) explorer.pin(row);
    }
    explorer.redraw();
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => !start && explorer.hover(index, -1));
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!(event.ctrlKey || event.metaKey) && document.activeElement !== canvas && explorer.view.zoom === 1 && event.deltaY > 0) return;
      event.preventDefault();
      explorer.zoom(2 ** (-event.deltaY / 400), index, ...place(event));
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (arrow) explorer.step(index, ...arrow);
    else if (event.key === "Enter" || event.key === " ") explorer.hovered >= 0 && explorer.pin(explorer.hovered);
    else if (event.key === "+" || event.key === "=") explorer.zoom(1.5);
    else if (event.key === "-") explorer.zoom(1 / 1.5);
    else if (event.key === "0") explorer.parts.zoomAll.click();
    else return;
    event.preventDefault();
  });
}
