// Starts the explorer of the page.

function startExplorer() {
  const block = document.getElementById("ftft-map-data");
  const root = document.getElementById("ftft-explorer");
  if (!block || !root) return;
  document.documentElement.classList.add("explored");
  root.hidden = false;
  // For the console: the explorer with its data, and the rules by which it chooses.
  window.ftftExplorer = new Explorer(root, readData(block.textContent));
  window.ftftChoose = choose;
}

startExplorer();
