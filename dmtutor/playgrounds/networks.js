// ConvNet of dmtutor/networks.py at its defaults, for 28×28 images: three blocks of [3×3 convolution, instance norm,
// ReLU, 2×2 average], then one linear layer. One image at a time, in double precision.
import { SIDE } from "./images.js";

const SIDES = [32, 16, 8]; // of the blocks' maps: the first convolution pads by three
const EPSILON = 1e-5;
const floats = (n) => new Float64Array(n);

// output[o] = bias[o] + Σ_i weight[o, i] ∗ input[i]: planes of side n + 2, with a border, become planes of side n.
function convolve(input, inputs, output, outputs, n, weight, bias) {
  const m = n + 2;
  for (let o = 0; o < outputs; o++) {
    output.fill(bias ? bias[o] : 0, o * n * n, (o + 1) * n * n);
    for (let i = 0; i < inputs; i++) {
      const k = (o * inputs + i) * 9;
      const a = weight[k], b = weight[k + 1], c = weight[k + 2];
      const d = weight[k + 3], e = weight[k + 4], f = weight[k + 5];
      const g = weight[k + 6], h = weight[k + 7], j = weight[k + 8];
      for (let y = 0; y < n; y++) {
        let p = i * m * m + y * m, q = p + m, r = q + m, t = o * n * n + y * n;
        let p0 = input[p], p1 = input[p + 1], q0 = input[q], q1 = input[q + 1], r0 = input[r], r1 = input[r + 1];
        for (const end = t + n; t < end; t++, p++, q++, r++) {
          const p2 = input[p + 2], q2 = input[q + 2], r2 = input[r + 2];
          output[t] += a * p0 + b * p1 + c * p2 + d * q0 + e * q1 + f * q2 + g * r0 + h * r1 + j * r2;
          p0 = p1; p1 = p2; q0 = q1; q1 = q2; r0 = r1; r1 = r2;
        }
      }
    }
  }
}

// What a convolution's weights and biases get of the gradient in its output; both planes have their border.
function correlate(input, inputs, gradient, outputs, n, byWeight, byBias) {
  const m = n + 2;
  for (let o = 0; o < outputs; o++) {
    for (let i = 0; i < inputs; i++) {
      let a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0, j = 0;
      for (let y = 0; y < n; y++) {
        let p = i * m * m + y * m, q = p + m, r = q + m, t = o * m * m + (y + 1) * m + 1;
        let p0 = input[p], p1 = input[p + 1], q0 = input[q], q1 = input[q + 1], r0 = input[r], r1 = input[r + 1];
        for (const end = t + n; t < end; t++, p++, q++, r++) {
          const v = gradient[t], p2 = input[p + 2], q2 = input[q + 2], r2 = input[r + 2];
          a += v * p0; b += v * p1; c += v * p2;
          d += v * q0; e += v * q1; f += v * q2;
          g += v * r0; h += v * r1; j += v * r2;
          p0 = p1; p1 = p2; q0 = q1; q1 = q2; r0 = r1; r1 = r2;
        }
      }
      const sums = [a, b, c, d, e, f, g, h, j], k = (o * inputs + i) * 9;
      for (let s = 0; s < 9; s++) byWeight[k + s] += sums[s];
    }
    for (let y = 1; y <= n; y++)
      for (let x = 1; x <= n; x++) byBias[o] += gradient[o * m * m + y * m + x];
  }
}

// The way back through a convolution is a convolution: channels exchanged, kernels turned by half a circle.
function turn(weight, inputs, outputs, turned) {
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < inputs; i++)
      for (let k = 0; k < 9; k++) turned[(i * outputs + o) * 9 + k] = weight[(o * inputs + i) * 9 + 8 - k];
}

export class ConvNet {
  constructor(width, classes = 10) {
    this.width = width;
    this.embeddingDim = 16 * width;
    this.blocks = SIDES.map((n, b) => {
      const inputs = b ? width : 1, m = n + 2;
      return {
        n, inputs,
        weight: floats(width * inputs * 9), bias: floats(width),
        gain: floats(width), shift: floats(width), // of the norm
        input: floats(inputs * m * m), // with its border
        normal: floats(width * n * n), // the convolution's output, normalised
        scale: floats(width), // 1 / its standard deviation before
        gradient: floats(width * m * m), // in the convolution's output, with a border
        back: floats(inputs * n * n), // in the block's input
        turned: floats(width * inputs * 9),
      };
    });
    this.classifier = { weight: floats(classes * this.embeddingDim), bias: floats(classes) };
    // As network.parameters() orders them
    const ofBlocks = this.blocks.flatMap(({ weight, bias, gain, shift }) => [weight, bias, gain, shift]);
    this.parameters = [...ofBlocks, this.classifier.weight, this.classifier.bias];
  }

  // PyTorch's default: uniform in ±1/√fan_in; norms start as the identity.
  resetParameters(random) {
    const fill = (layer, fanIn) => {
      for (const values of [layer.weight, layer.bias])
        for (let i = 0; i < values.length; i++) values[i] = (2 * random() - 1) / Math.sqrt(fanIn);
    };
    for (const block of this.blocks) {
      fill(block, 9 * block.inputs);
      block.gain.fill(1);
      block.shift.fill(0);
    }
    fill(this.classifier, this.embeddingDim);
    return this;
  }

  loadParameters(values) {
    for (const [i, value] of values.entries()) this.parameters[i].set(value);
    return this;
  }

  // ψ(x), (16 · width,), of an image, (784,).
  embed(image, psi) {
    const { width, blocks } = this;
    for (let y = 0; y < SIDE; y++)
      for (let x = 0; x < SIDE; x++) blocks[0].input[(y + 3) * 34 + x + 3] = image[y * SIDE + x];
    blocks.forEach(({ n, inputs, weight, bias, gain, shift, input, normal, scale }, b) => {
      convolve(input, inputs, normal, width, n, weight, bias);
      const half = n / 2, inner = b < 2; // the next block's input has a border, the embedding has none
      const next = inner ? blocks[b + 1].input : psi, step = inner ? half + 2 : half, corner = inner ? step + 1 : 0;
      for (let c = 0; c < width; c++) {
        scale[c] = normalize(normal, c * n * n, (c + 1) * n * n);
        for (let y = 0; y < half; y++) {
          let p = c * n * n + 2 * y * n, q = p + n, t = c * step * step + y * step + corner;
          for (let x = 0; x < half; x++, p += 2, q += 2, t++) {
            const top = relu(gain[c] * normal[p] + shift[c]) + relu(gain[c] * normal[p + 1] + shift[c]);
            next[t] = (top + relu(gain[c] * normal[q] + shift[c]) + relu(gain[c] * normal[q + 1] + shift[c])) / 4;
          }
        }
      }
    });
    return psi;
  }

  // The gradient of ⟨v, ψ(x)⟩ at the image of the last `embed`: in x, into `result`, and in the weights, added to
  // `gradients`, which are as `parameters`. Either may be null.
  pullback(v, result, gradients) {
    const { width, blocks } = this;
    for (let b = 2; b >= 0; b--) {
      const { n, inputs, weight, gain, shift, input, normal, scale, gradient, back, turned } = blocks[b];
      const m = n + 2, half = n / 2, above = b < 2 ? blocks[b + 1].back : v;
      for (let c = 0; c < width; c++) {
        let sum = 0, along = 0;
        for (let y = 0; y < n; y++) {
          let t = c * n * n + y * n, u = c * m * m + (y + 1) * m + 1;
          const s = c * half * half + (y >> 1) * half;
          for (let x = 0; x < n; x++, t++, u++) {
            const g = gain[c] * normal[t] + shift[c] > 0 ? above[s + (x >> 1)] / 4 : 0;
            gradient[u] = g;
            sum += g;
            along += g * normal[t];
          }
        }
        if (gradients) {
          gradients[4 * b + 2][c] += along;
          gradients[4 * b + 3][c] += sum;
        }
        // Through the norm: what changes the mean or the standard deviation of the map has no effect.
        for (let y = 0; y < n; y++) {
          let t = c * n * n + y * n, u = c * m * m + (y + 1) * m + 1;
          for (let x = 0; x < n; x++, t++, u++)
            gradient[u] = scale[c] * gain[c] * (gradient[u] - sum / (n * n) - (normal[t] * along) / (n * n));
        }
      }
      if (gradients) correlate(input, inputs, gradient, width, n, gradients[4 * b], gradients[4 * b + 1]);
      if (b || result) {
        turn(weight, inputs, width, turned);
        convolve(gradient, width, back, inputs, n, turned, null);
      }
    }
    if (result)
      for (let y = 0; y < SIDE; y++)
        for (let x = 0; x < SIDE; x++) result[y * SIDE + x] = blocks[0].back[(y + 2) * 32 + x + 2];
    return result;
  }

  // W ψ + b, (classes,), of an embedding.
  logits(psi) {
    const { weight, bias } = this.classifier;
    return bias.map((b, k) => psi.reduce((sum, value, i) => sum + weight[k * psi.length + i] * value, b));
  }
}

const relu = (value) => Math.max(0, value);

// Values from … to less their mean, over their standard deviation, whose inverse is returned.
function normalize(values, from, to) {
  let mean = 0, square = 0;
  for (let t = from; t < to; t++) mean += values[t];
  mean /= to - from;
  for (let t = from; t < to; t++) {
    values[t] -= mean;
    square += values[t] * values[t];
  }
  const scale = 1 / Math.sqrt(square / (to - from) + EPSILON);
  for (let t = from; t < to; t++) values[t] *= scale;
  return scale;
}
