// <dm-digits>: chapter 5, "Ten digits". Distribution matching on real digits, networks that learn from ten, and a pad.
import { SiameseAugment } from "./augmentation.js";
import { DMSteps } from "./distribution_matching.js";
import { argmax, correct, probabilities, trainNetwork } from "./evaluation.js";
import { decode, likeMnist, paint, SIDE } from "./images.js";
import { ConvNet } from "./networks.js";
import { css, INK, nextCurve, ORANGE, Playground, plot, SAND } from "./playground.js";
import { choose, generator, integer } from "./randomness.js";

const PAD = 7 * SIDE; // pixels of the pad along a side
const AUGMENT = "crop_scale_rotate";
const RECIPE = { steps: 150, width: 8, lr: 0.01, momentum: 0.9, weight_decay: 5e-4 };
const TRAIN = "Train a network on each row";
const ROWS = ["the random ten", "the synthetic ten"];
const HEADS = Array.from({ length: 10 }, (_, c) => `<th scope="col">${c}</th>`).join("");
const WATCHED = Array.from({ length: 10 }, (_, c) => `<option${c === 8 ? " selected" : ""}>${c}</option>`).join("");
const CANVAS = `<canvas width="${SIDE}" height="${SIDE}"></canvas>`;

const rms = (images) => Math.sqrt(images.reduce((sum, image) => sum + square(image), 0) / images.length / SIDE ** 2);
const square = (image) => image.reduce((sum, value) => sum + value ** 2, 0);
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const less = (a, b, times = 1) => a.map((value, i) => value - times * b[i]);
const unit = (a) => a.map((value) => value / Math.sqrt(square(a)));
const settings = { batch: 4, step: 1, width: 16, augment: AUGMENT };

class Digits extends Playground {
  static verb = "Condense";
  static leap = 300;
  static budget = 10;

  static presets = {
    noise: {
      name: "From noise",
      dials: settings,
      init: "noise",
      seed: 1,
      after: 300,
      question: "The lower row is noise. Will digits come out of it? And will the eight reach the cross, the mean of the "
        + "real ones?",
      answer: "Digits do, and most look much like those that From real digits ends with: the means are the same. The "
        + "eight comes near to the cross and does not stay on it, since each step asks for the mean in another network.",
    },
    real: {
      name: "From real digits",
      dials: settings,
      init: "real",
      seed: 1,
      after: 300,
      question: "Which three of the ten digits will change most? Choose them, then condense: it stops after 300 steps.",
      answer: "By the angle between start and end, the 1 (64°), the 5 and the 4; from other starts it may be others. The "
        + "contrast of the ten more than doubled, but not all grew bold: in the 1, 2, 4, 5 and 8 more pixels are "
        + "brighter than half than at the start, in the others fewer. Now train a network on each row: what is the "
        + "change worth?",
    },
    one: {
      name: "A batch of one",
      dials: { ...settings, batch: 1 },
      init: "real",
      seed: 1,
      after: 300,
      question: "Each step sees one real digit of each class, not four. Will the loss fall as far? Will the digits "
        + "condense?",
      answer: "It stays higher: smoothed, it ends at 118, with four digits at 49. Most of the difference is the floor "
        + "that a small batch has, about 91 and 22. The digits condense all the same; in longer runs (width 32, three "
        + "sets) one digit instead of 16 costs 1.4 points of accuracy, 95 % interval 1.0 to 1.8.",
    },
    bare: {
      name: "No augmentation",
      dials: { ...settings, augment: "none" },
      init: "real",
      seed: 1,
      after: 300,
      question: "Real and synthetic digits are compared as they are. Will a network learn less from the ten?",
      answer: "A little. In longer runs (16 real digits, width 32, a falling step, three sets) it costs 0.6 points "
        + "of accuracy to leave augmentation out, 95 % interval 0.0 to 1.1. The judge here, one small network on each "
        + "row, cannot tell so little.",
    },
    contrast: {
      name: "Contrast that grows",
      dials: { ...settings, step: 8, augment: "none" },
      init: "real",
      seed: 1,
      after: 300,
      question: "The step size is 8 η, without augmentation. Will it still count for eight times as much as η does, after "
        + "300 steps?",
      answer: "No: the contrast grew more than sixfold, so the step size counts ×\u00a00.025, and 8 η for 0.2 η. That "
        + "is about what η itself counts for after as many steps, ×\u00a00.21 (see No augmentation). The chapter tells why.",
    },
  };

  static page = `
    <style>
      .sheet { display: grid; grid-template-columns: repeat(10, 1fr); gap: 3px; margin: .2rem 0 .7rem; }
      @media (max-width: 600px) { .sheet { grid-template-columns: repeat(5, 1fr); } }
      .sheet canvas, #asSeen { image-rendering: pixelated; border-radius: .2rem; background: #000; }
      #ink { width: ${PAD}px; height: ${PAD}px; background: #000; touch-action: none; cursor: crosshair; }
      #asSeen { width: ${2 * SIDE}px; }
      table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
      caption { text-align: left; }
      :is(th, td) { padding: 0 .15rem; text-align: center; font-weight: normal; min-width: 1.5rem; font-size: .85em; }
      th[scope=row], th:first-child { text-align: left; vertical-align: bottom; }
      td { vertical-align: bottom; height: 3.6rem; }
      tbody tr { border-top: 1px solid; }
      td i { display: block; background: #d55e00; }
    </style>
    <div class="row">
      <label>Real digits of each class <select id="batch"><option>1</option><option>4</option><option>16</option>
        </select></label>
      <label>Step size <select id="step"><option value="0.25">η / 4</option><option value="1">η</option>
        <option value="8">8 η</option></select></label>
      <label>Width <select id="width"><option>8</option><option>16</option><option>32</option></select></label>
      <label>Augmentation <select id="augment"><option value="${AUGMENT}">crop, scale, rotate</option>
        <option>none</option></select></label>
    </div>
    <div>Ten random digits</div><div class="sheet" id="random" role="img">${CANVAS.repeat(10)}</div>
    <div>Ten synthetic digits</div><div class="sheet" id="synthetic" role="img">${CANVAS.repeat(10)}</div>
    <div class="row">
      <button class="act" type="button" id="run">Condense</button>
      <button class="act" type="button" id="once">One step</button>
      <button class="act" type="button" id="again">Other digits</button>
    </div>
    <p>After <output id="steps"></output> steps: loss, smoothed, <output id="loss"></output>; contrast
      ×&nbsp;<output id="contrast"></output> since the start, so the step size counts
      ×&nbsp;<output id="effective"></output>.<output id="pace"></output></p>
    <div class="row"><label>Seen by a network that the run never meets: class
      <select id="watch">${WATCHED}</select></label></div>
    <canvas id="means" width="1200" height="420" role="img"></canvas>
    <small>Sand: real digits. Cross: their mean. Orange: the synthetic one, from its start (grey).</small>
    <canvas id="curve" width="1200" height="180" role="img"></canvas>
    <small>Loss over steps, smoothed (nine tenths of the last, one of the new), from 0 to
      <output id="most"></output>. Pale: before.</small>
    <div class="row">
      <button class="act" type="button" id="judge">${TRAIN}</button>
      <output id="verdict"></output>
    </div>
    <div class="row" id="reading" hidden>
      <canvas id="ink" width="${PAD}" height="${PAD}" role="img" aria-label="a pad to draw a digit on"></canvas>
      <div>
        <div class="row"><button class="act" type="button" id="example">A test digit</button>
          <button class="act" type="button" id="wipe">Wipe</button>
          <canvas id="asSeen" width="${SIDE}" height="${SIDE}" role="img" aria-label="the digit as the networks see it">
          </canvas></div>
        <table><caption><output id="given"></output> What do the two networks read? In per cent</caption>
          <thead><tr><th scope="col">network of</th>${HEADS}</tr></thead>
          <tbody id="readings"></tbody></table>
      </div>
    </div>`;

  build() {
    const { alphabet, mean, std, train, test } = Object.fromEntries([...this.attributes].map((a) => [a.name, a.value]));
    this.shade = [Number(mean), Number(std)];
    [this.real, this.test] = [train, test].map((text) => {
      const images = decode(text, alphabet, ...this.shade), each = images.length / 10;
      return Array.from({ length: 10 }, (_, c) => images.slice(c * each, (c + 1) * each));
    });
    this.curves = [];
    this.chance = generator(2); // of the examples; those of a run are drawn by another
    this.sketch();
  }

  get steps() {
    return this.dm.iteration;
  }

  get config() {
    const { batch, step, width, augment } = this.parts;
    return {
      batch_real: Number(batch.value),
      lr_img: (512 / (16 * width.value)) * step.value,
      momentum: 0.5,
      init: this.preset?.init ?? this.dm.config.init,
      augment: augment.value,
      width: Number(width.value),
    };
  }

  restart(seed) {
    this.running = false;
    this.random = generator(seed);
    this.dm = new DMSteps(this.real, this.config, this.random);
    this.start = this.dm.images.map((image) => Float64Array.from(image));
    this.ten = this.config.init === "real" ? this.start : this.real.map((pool) => choose(pool, 1, this.random)[0]);
    this.curves = nextCurve(this.curves);
    this.forget();
    this.busy = 0;
    this.look();
    this.paint("random", this.ten);
  }

  // A dial: from the next step on
  change(dial) {
    if (dial === "watch") this.look();
    else this.dm.config = this.config;
  }

  // The plane of one class: from the mean of its real digits to the start, and where the real ones stray most. Their
  // places in it, and the way of the synthetic digit so far.
  look() {
    const c = Number(this.parts.watch.value), eye = new ConvNet(8).resetParameters(generator(4));
    const embed = (image) => eye.embed(image, new Float64Array(eye.embeddingDim));
    const real = this.real[c].slice(0, 60).map(embed);
    const mean = real[0].map((_, i) => real.reduce((sum, psi) => sum + psi[i], 0) / real.length);
    const across = unit(less(embed(this.start[c]), mean));
    const rest = real.map((psi) => less(psi, mean)).map((z) => less(z, across, dot(z, across)));
    let along = unit(rest[0]);
    for (let i = 0; i < 20; i++) // power iteration
      along = unit(along.map((_, j) => rest.reduce((sum, z) => sum + dot(z, along) * z[j], 0)));
    const place = (psi) => [across, along].map((axis) => dot(less(psi, mean), axis));
    this.plane = { c, real: real.map(place), start: place(embed(this.start[c])), way: [], place: (x) => place(embed(x)) };
  }

  // Draws that plane.
  drawMeans() {
    const { means } = this.parts, { c, real, start, way, place } = this.plane, pen = means.getContext("2d");
    const { width, height } = means, now = place(this.dm.images[c]);
    if (way.length < 2 || way.at(-1)[0] !== now[0]) way.push(now);
    const [right, left] = [1, -1].map((side) => Math.max(...[...real, start, now].map(([x]) => side * x)));
    const scale = Math.min((0.9 * width) / (right + left), (0.42 * height) / Math.max(...real.map(([, y]) => Math.abs(y))));
    const at = ([x, y]) => [width / 2 + scale * (x - (right - left) / 2), height / 2 - scale * y];
    const spot = (point, radius, color) => {
      pen.fillStyle = color;
      pen.beginPath();
      pen.arc(...at(point), radius, 0, 7);
      pen.fill();
    };
    pen.clearRect(0, 0, width, height);
    for (const point of real) spot(point, 7, SAND);
    pen.lineWidth = 4;
    pen.strokeStyle = css(ORANGE);
    pen.beginPath();
    for (const point of [start, ...way]) pen.lineTo(...at(point));
    pen.stroke();
    spot(start, 12, "#8c8c8c");
    const [x, y] = at([0, 0]);
    pen.fillStyle = INK;
    pen.fillRect(x - 16, y - 3, 32, 6);
    pen.fillRect(x - 3, y - 16, 6, 32);
    spot(now, 14, css(ORANGE));
    const share = Math.hypot(...now) / Math.hypot(...start);
    means.setAttribute("aria-label", `Digit ${c}: of the distance to the real ones' mean ${share.toFixed(2)} are left`);
  }

  act(name) {
    if (name === "again") {
      this.leave();
      this.restart(Math.floor(2 ** 32 * this.random()));
    }
    if (name === "judge") this.judge();
    if (name === "example") return this.example();
    if (name === "wipe") return this.wipe();
  }

  // One image; a step takes those of ten classes. A wider network has a larger loss: another width, another curve.
  advance() {
    const begin = performance.now(), whole = this.dm.next(), { loss, network } = this.dm;
    this.busy += performance.now() - begin;
    this.forget();
    if (whole) {
      if (this.width !== network.width) this.curves = nextCurve(this.curves);
      this.width = network.width;
      const curve = this.curves.at(-1);
      curve[this.steps] = curve.length ? 0.9 * curve.at(-1) + 0.1 * loss : loss;
    }
    return whole;
  }

  paint(row, images) {
    for (const [c, canvas] of [...this.parts[row].children].entries()) paint(canvas, images[c], ...this.shade);
  }

  show() {
    const { parts, curves } = this, losses = curves.at(-1).length ? Object.values(curves.at(-1)) : curves.flat();
    this.paint("synthetic", this.dm.images);
    const most = losses.length ? 1.25 * Math.max(...losses) : 1;
    parts.most.textContent = losses.length ? most.toFixed(0) : "–";
    plot(parts.curve, curves, { from: 0, to: most });
    this.drawMeans();
    this.measure();
  }

  measure() {
    const { parts, dm } = this, growth = rms(dm.images) / rms(this.start), curve = this.curves.at(-1);
    parts.steps.textContent = this.steps;
    parts.loss.textContent = curve.length ? curve.at(-1).toFixed(1) : "–";
    parts.contrast.textContent = growth.toFixed(2);
    const counts = dm.images.map((image, c) => square(this.start[c]) / square(image));
    const pace = this.busy / this.steps;
    parts.pace.textContent = this.steps < 3 ? "" : ` A step takes ${pace.toFixed(0)} ms, 300 of them `
      + `${Math.ceil(0.3 * pace)} s.`;
    parts.effective.textContent = (counts.reduce((a, b) => a + b) / 10).toPrecision(2);
  }

  describe() {
    const { parts } = this;
    parts.random.setAttribute("aria-label", "ten random digits, 0 to 9");
    parts.synthetic.setAttribute("aria-label", `ten synthetic digits, 0 to 9, after ${this.steps} steps`);
    parts.curve.setAttribute("aria-label", `The smoothed loss over ${this.steps} steps, now ${parts.loss.textContent}.`);
    return `After ${this.steps} steps the smoothed loss is ${parts.loss.textContent}.`;
  }

  // While networks learn, one button works, and no dial: it stops them.
  occupy(lesson) {
    const { judge } = this.parts;
    this.lesson = lesson;
    for (const part of this.shadowRoot.querySelectorAll("button.act, select")) part.disabled = lesson && part !== judge;
    judge.textContent = lesson ? "Stop" : TRAIN;
  }

  // What was said of a set is not said of another.
  forget() {
    this.parts.verdict.textContent = "";
    this.parts.reading.hidden = true;
  }

  async judge() {
    this.running = false;
    this.forget();
    if (this.lesson) return this.occupy(null);
    const lesson = this.teach([this.ten, this.dm.images].map((images) => images.map((image) => image.slice())));
    this.occupy(lesson);
    let end = performance.now() + 10;
    for (const progress of lesson) {
      if (performance.now() < end) continue;
      this.parts.verdict.textContent = progress;
      await this.frame();
      if (this.lesson !== lesson) return;
      end = performance.now() + 10;
    }
    this.occupy(null);
    const [few, many] = this.right;
    this.parts.verdict.textContent = `Of ${this.test.flat().length} test digits the network of ${ROWS[0]} reads `
      + `${few} right, that of ${ROWS[1]} after ${this.steps} steps ${many}.`;
    this.parts.reading.hidden = false;
    this.refresh(`${this.parts.verdict.textContent} ${this.example()}`);
  }

  // Two networks, the same at their start, each on one row; then test digits for both. Yields how far it is.
  *teach(rows) {
    this.networks = [];
    this.right = [];
    for (const [i, images] of rows.entries()) {
      const random = generator(3), network = new ConvNet(RECIPE.width).resetParameters(random);
      const recipe = { ...RECIPE, augment: new SiameseAugment(AUGMENT) };
      for (const step of trainNetwork(network, images, [...images.keys()], recipe, random))
        yield `${ROWS[i]}: step ${step} of ${recipe.steps}`;
      let right = 0;
      for (const [c, images] of this.test.entries())
        for (const image of images) {
          right += correct(network, image, c);
          yield `${ROWS[i]}: reading`;
        }
      this.networks.push(network);
      this.right.push(right);
    }
  }

  // The pad: a drawing is read when the pen is lifted.
  sketch() {
    const { ink } = this.parts, pen = ink.getContext("2d", { willReadFrequently: true });
    this.pen = pen;
    Object.assign(pen, { lineWidth: 16, lineCap: "round", lineJoin: "round", strokeStyle: "#fff", fillStyle: "#fff" });
    const place = (event) => {
      const box = ink.getBoundingClientRect();
      return [((event.clientX - box.left) * PAD) / box.width, ((event.clientY - box.top) * PAD) / box.height];
    };
    let drawing = false;
    ink.addEventListener("pointerdown", (event) => {
      ink.setPointerCapture(event.pointerId);
      if (this.printed) this.wipe();
      drawing = true;
      pen.beginPath();
      const [x, y] = place(event);
      pen.moveTo(x, y);
      pen.lineTo(x + 0.1, y); // a dot
      pen.stroke();
    });
    ink.addEventListener("pointermove", (event) => {
      if (!drawing) return;
      pen.lineTo(...place(event));
      pen.stroke();
    });
    ink.addEventListener("lostpointercapture", () => {
      drawing = false;
      const { data } = pen.getImageData(0, 0, PAD, PAD), [mean, std] = this.shade;
      const image = likeMnist(Float64Array.from({ length: PAD ** 2 }, (_, i) => data[4 * i + 3] / 255), PAD);
      this.refresh(this.read(image?.map((value) => (value - mean) / std)));
    });
  }

  wipe() {
    this.pen.clearRect(0, 0, PAD, PAD);
    this.printed = false;
    this.parts.given.textContent = "Draw a digit.";
    return this.read();
  }

  // For those who do not draw
  example() {
    this.wipe();
    const c = integer(10, this.chance), image = choose(this.test[c], 1, this.chance)[0], [mean, std] = this.shade;
    this.parts.given.textContent = `A test digit, labelled ${c}.`;
    image.forEach((value, i) => {
      this.pen.globalAlpha = Math.max(0, value * std + mean);
      this.pen.fillRect(7 * (i % SIDE), 7 * Math.floor(i / SIDE), 7, 7);
    });
    this.pen.globalAlpha = 1;
    this.printed = true;
    return this.read(image);
  }

  // Shows what the networks make of an image, and says it.
  read(image) {
    const blank = new Float64Array(SIDE ** 2).fill(-this.shade[0] / this.shade[1]);
    paint(this.parts.asSeen, image ?? blank, ...this.shade);
    const found = this.networks.map((network) => image && probabilities(network, image));
    this.parts.readings.innerHTML = found
      .map((p, i) => {
        const cells = this.real.map((_, c) => {
          if (!p) return "<td>–</td>";
          const text = Math.round(100 * p[c]), tag = c === argmax(p) ? "b" : "span";
          return `<td><i style="height:${(2.2 * p[c]).toFixed(2)}rem"></i><${tag}>${text}</${tag}></td>`;
        });
        return `<tr><th scope="row">${ROWS[i]}</th>${cells.join("")}</tr>`;
      })
      .join("");
    const said = found.map((p, i) => `that of ${ROWS[i]} reads ${p && argmax(p)}`);
    return image ? `Of the two networks ${said.join(", ")}.` : "The pad is empty.";
  }
}

customElements.define("dm-digits", Digits);
