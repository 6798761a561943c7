// A brush over an image. `element.querySelector(".vq-brush").read()` returns the image and the mask, white where painted,
// as data URLs; the mask is null if nothing is painted.
const brush = element.querySelector(".vq-brush"), place = brush.querySelector(".vq-canvas");
const picture = place.querySelector("img"), canvas = place.querySelector("canvas");
const size = brush.querySelector(".vq-size"), file = brush.querySelector("input[type=file]");
const paint = canvas.getContext("2d", { willReadFrequently: true });
let tool = "paint", past = [], last = null;

const open = (url) => {
  const image = new Image();
  image.onerror = () => { place.querySelector("p").textContent = "This file cannot be read as an image: open a PNG, JPEG or WebP file."; };
  image.onload = () => {
    const scale = Math.min(1, props.most / Math.max(image.naturalWidth, image.naturalHeight));
    canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
    canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
    if (scale < 1) { // larger than the server accepts
      paint.drawImage(image, 0, 0, canvas.width, canvas.height);
      url = canvas.toDataURL("image/webp", 0.95);
      paint.clearRect(0, 0, canvas.width, canvas.height);
    }
    past = [];
    picture.src = url;
    picture.hidden = canvas.hidden = false;
    place.querySelector("p").hidden = true;
  };
  image.src = url;
};

const openFile = (one) => {
  if (!one) return;
  const reader = new FileReader();
  reader.onload = () => open(reader.result);
  reader.readAsDataURL(one);
};

const at = (event) => {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
};

const stroke = (from, to) => {
  paint.globalCompositeOperation = tool === "erase" ? "destination-out" : "source-over";
  paint.strokeStyle = "#8b5cf6";
  paint.lineCap = paint.lineJoin = "round";
  paint.lineWidth = (size.value / 100) * Math.max(canvas.width, canvas.height);
  paint.beginPath();
  paint.moveTo(from.x, from.y);
  paint.lineTo(to.x, to.y + 0.01);
  paint.stroke();
};

canvas.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  past = [...past.slice(-19), paint.getImageData(0, 0, canvas.width, canvas.height)];
  last = at(event);
  stroke(last, last);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  const here = at(event);
  stroke(last, here);
  last = here;
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });

brush.addEventListener("click", (event) => {
  const button = event.target.closest("[data-tool]");
  if (!button) return;
  if (button.dataset.tool === "undo") {
    if (past.length) paint.putImageData(past.pop(), 0, 0);
  } else if (button.dataset.tool === "clear") {
    past = [];
    paint.clearRect(0, 0, canvas.width, canvas.height);
  } else {
    tool = button.dataset.tool;
    for (const one of brush.querySelectorAll("[data-tool]")) one.classList.toggle("vq-on", one === button);
  }
});
file.addEventListener("change", () => { openFile(file.files[0]); file.value = ""; });
place.addEventListener("dragover", (event) => event.preventDefault());
place.addEventListener("drop", (event) => { event.preventDefault(); openFile(event.dataTransfer.files[0]); });

brush.read = () => {
  if (picture.hidden) return { image: null, mask: null };
  const mask = document.createElement("canvas");
  mask.width = canvas.width;
  mask.height = canvas.height;
  const pixels = paint.getImageData(0, 0, canvas.width, canvas.height);
  let painted = false;
  for (let i = 0; i < pixels.data.length; i += 4) {
    const white = pixels.data[i + 3] > 127 ? 255 : 0;
    painted = painted || white > 0;
    pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = white;
    pixels.data[i + 3] = 255;
  }
  mask.getContext("2d").putImageData(pixels, 0, 0);
  return { image: picture.src, mask: painted ? mask.toDataURL("image/png") : null };
};

watch("value", () => { if (props.value) open(props.value); });
if (props.value) open(props.value);
