// Siamese augmentation of 28×28 images: dmtutor/augmentation.py. An operation says where in the image each place is
// read: numbers u in [0, 1) → ((row, column) → [row, column]).
import { SIDE } from "./images.js";
import { integer } from "./randomness.js";

// Shift by up to an eighth of the side, in whole pixels.
function crop(u) {
  const [down, right] = [0, 1].map((i) => Math.floor(-4 + 9 * u[i]));
  return (row, column) => [row + down, column + right];
}

// Scale width and height, each by its own factor in [1/1.2, 1.2].
function scale(u) {
  const [across, along] = [0, 1].map((i) => 1 / 1.2 + u[i] * (1.2 - 1 / 1.2));
  return warp(across, 0, 0, along);
}

// Rotate by up to 15 degrees either way.
function rotate(u) {
  const angle = ((2 * u[0] - 1) * 15 * Math.PI) / 180;
  return warp(Math.cos(angle), -Math.sin(angle), Math.sin(angle), Math.cos(angle));
}

// The matrix [[a, b], [c, d]] times each position, in coordinates from −1 to 1.
function warp(a, b, c, d) {
  return (row, column) => {
    const x = (2 * column + 1) / SIDE - 1, y = (2 * row + 1) / SIDE - 1;
    return [((c * x + d * y + 1) * SIDE - 1) / 2, ((a * x + b * y + 1) * SIDE - 1) / 2];
  };
}

const OPERATIONS = { crop, scale, rotate, none: () => (row, column) => [row, column] };

// A(x, ω). `set` takes a draw ω; as a linear map it makes each pixel of four, bilinearly, zero outside the image, and
// its transpose brings a gradient back.
export class SiameseAugment {
  constructor(strategy) {
    this.operations = strategy.split("_");
    this.index = new Int32Array(4 * SIDE ** 2);
    this.share = new Float64Array(4 * SIDE ** 2);
  }

  // One operation; k draws of its numbers.
  sample(k, random) {
    const operation = this.operations[integer(this.operations.length, random)];
    return Array.from({ length: k }, () => ({ operation, u: [random(), random()] }));
  }

  set({ operation, u }) {
    const read = OPERATIONS[operation](u);
    for (let row = 0, at = 0; row < SIDE; row++)
      for (let column = 0; column < SIDE; column++) {
        const [y, x] = read(row, column), top = Math.floor(y), left = Math.floor(x);
        for (let corner = 0; corner < 4; corner++, at++) {
          const r = top + (corner >> 1), c = left + (corner & 1);
          const inside = r >= 0 && r < SIDE && c >= 0 && c < SIDE;
          this.index[at] = inside ? r * SIDE + c : 0;
          this.share[at] = inside ? (1 - Math.abs(y - r)) * (1 - Math.abs(x - c)) : 0;
        }
      }
    return this;
  }

  apply(image, result) {
    const { index, share } = this;
    for (let i = 0, at = 0; i < result.length; i++) {
      let sum = 0;
      for (const end = at + 4; at < end; at++) sum += share[at] * image[index[at]];
      result[i] = sum;
    }
    return result;
  }

  transpose(gradient, result) {
    const { index, share } = this;
    result.fill(0);
    for (let i = 0, at = 0; i < gradient.length; i++)
      for (const end = at + 4; at < end; at++) result[index[at]] += share[at] * gradient[i];
    return result;
  }
}
