"use strict";
const COLOURS = JSON.parse(document.getElementById("data").textContent).colours;
const SVG = "http://www.w3.org/2000/svg";

// a figure as a file: the page's drawings beside each other, with the colours of the light page on white
function plain(node) {
  for (const one of [node, ...node.querySelectorAll("*")]) {
    for (const name of [...one.classList]) {
      const colour = COLOURS[name.slice(2)];
      if (colour) one.setAttribute(name[0] === "f" ? "fill" : "stroke", colour);
    }
    one.removeAttribute("class");
  }
  return node;
}

function together(drawings) {
  const gap = 12;
  const columns = Math.min(6, drawings.length);
  const boxes = drawings.map((one) => one.viewBox.baseVal);
  const wide = Math.max(...boxes.map((box) => box.width)) + gap;
  const tall = Math.max(...boxes.map((box) => box.height)) + gap;
  const whole = document.createElementNS(SVG, "svg");
  const size = [columns * wide + gap, Math.ceil(drawings.length / columns) * tall + gap];
  whole.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
  whole.setAttribute("width", size[0]);
  whole.setAttribute("height", size[1]);
  whole.setAttribute("font-family", "Helvetica, Arial, sans-serif");
  const ground = document.createElementNS(SVG, "rect");
  for (const [key, value] of Object.entries({ width: size[0], height: size[1], fill: "white" })) ground.setAttribute(key, value);
  whole.append(ground);
  drawings.forEach((one, i) => {
    const copy = plain(one.cloneNode(true));
    copy.setAttribute("x", gap + (i % columns) * wide);
    copy.setAttribute("y", gap + Math.floor(i / columns) * tall);
    copy.setAttribute("width", boxes[i].width);
    copy.setAttribute("height", boxes[i].height);
    whole.append(copy);
  });
  return whole;
}

function save(link) {
  const drawings = [...link.closest("[data-figure]").querySelectorAll("svg")];
  const text = new XMLSerializer().serializeToString(together(drawings));
  const address = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  const made = document.createElement("a");
  made.setAttribute("href", address);
  made.download = link.download;
  made.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

async function copy(button) {
  const text = document.getElementById(button.dataset.copy).textContent;
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    const from = document.getElementById(button.dataset.copy);
    from.hidden = false;
    getSelection().selectAllChildren(from);
    button.textContent = "Marked: copy it with your keyboard";
  }
  setTimeout(() => { button.textContent = said; }, 2500);
}

for (const node of document.querySelectorAll(".js")) node.hidden = false;
document.addEventListener("click", (event) => {
  const link = event.target.closest(".get");
  if (link) {
    event.preventDefault();
    save(link);
  }
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});
