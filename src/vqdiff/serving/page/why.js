// The steps of an image. props.value: {steps, side, pictures: data URLs, revealed: the step of each position (0: never
// MASK), confidence: for each step, 0..255 at each position}.
const view = element.querySelector(".vq-why"), slider = view.querySelector("input[type=range]");
const play = view.querySelector("[data-play]"), words = view.querySelector(".vq-words");
const image = view.querySelector("img"), sure = view.querySelector(".vq-sure"), order = view.querySelector(".vq-order");
const STOPS = [[13, 8, 60], [120, 28, 109], [237, 105, 37], [252, 255, 190]];
let run = null, timer = null;

const colour = (share) => {
  const place = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1), low = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[low].map((value, i) => Math.round(value + (STOPS[low + 1][i] - value) * (place - low)));
};

const squares = (canvas, colours) => {
  canvas.width = canvas.height = run.side;
  const paint = canvas.getContext("2d"), pixels = paint.createImageData(run.side, run.side);
  colours.forEach((rgb, i) => pixels.data.set([...rgb, 255], 4 * i));
  paint.putImageData(pixels, 0, 0);
};

const show = () => {
  const step = Number(slider.value), confidence = run.confidence[step - 1];
  image.src = run.pictures[step - 1];
  squares(sure, confidence.map((value) => colour(value / 255)));
  squares(order, run.revealed.map((at) => (at > step ? [226, 232, 240] : colour(1 - at / run.steps))));
  const count = run.revealed.filter((at) => at === step).length, open = run.revealed.filter((at) => at > step).length;
  const mean = confidence.reduce((sum, value) => sum + value, 0) / confidence.length / 255;
  words.textContent = `Step ${step} of ${run.steps}: ${count} tokens revealed, ${open} of ${run.revealed.length} still masked; `
    + `${Math.round(100 * mean)} % average confidence.`;
};

const stop = () => { clearInterval(timer); timer = null; play.textContent = "▶ Play"; };
play.addEventListener("click", () => {
  if (timer) return stop();
  if (Number(slider.value) >= run.steps) slider.value = 1;
  show();
  play.textContent = "❚❚ Pause";
  timer = setInterval(() => {
    slider.value = Number(slider.value) + 1;
    show();
    if (Number(slider.value) >= run.steps) stop();
  }, Math.max(60, Math.min(300, 6000 / run.steps)));
});
slider.addEventListener("input", () => { stop(); show(); });

for (const canvas of [sure, order]) {
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const [column, row] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
      .map((share) => Math.min(run.side - 1, Math.max(0, Math.floor(share * run.side))));
    const at = row * run.side + column, percent = Math.round((100 * run.confidence[Number(slider.value) - 1][at]) / 255);
    canvas.title = `row ${row + 1}, column ${column + 1}: revealed in step ${run.revealed[at]}; confidence now ${percent} %`;
  });
}

const start = () => {
  stop();
  run = props.value;
  view.hidden = !run;
  if (!run) return;
  slider.max = run.steps; // set before the value, which it limits
  slider.value = run.steps;
  show();
};
watch("value", start);
start();
