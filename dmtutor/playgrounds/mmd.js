// Maximum mean discrepancy of points in the plane: dmtutor/mmd.py, and the random features of dmtutor/embeddings.py.
// Points are flat arrays x₀, y₀, x₁, y₁, … A kernel is given by its mean embeddings: kernel(points) is the function
// (x, y) → [mean k((x, y), point), its derivative by x, by y].

// Linear
export const linear = () => (points) => {
  const n = points.length / 2;
  let mx = 0, my = 0;
  for (let i = 0; i < 2 * n; i += 2) {
    mx += points[i] / n;
    my += points[i + 1] / n;
  }
  return (x, y) => [x * mx + y * my, mx, my];
};

// Gaussian(bandwidth), or the mean of several
export const gaussian = (...bandwidths) => (points) => {
  const scales = bandwidths.map((h) => 1 / h ** 2), share = 2 / points.length / bandwidths.length;
  return (x, y) => {
    let value = 0, byX = 0, byY = 0;
    for (let i = 0; i < points.length; i += 2) {
      const dx = points[i] - x, dy = points[i + 1] - y, square = dx * dx + dy * dy;
      for (const scale of scales) {
        const k = share * Math.exp((-scale * square) / 2);
        value += k;
        byX += k * scale * dx;
        byY += k * scale * dy;
      }
    }
    return [value, byX, byY];
  };
};

// RandomFourierFeatures: a cosine and a sine for each frequency; `frequencies` is flat, as points are.
export const fourier = (frequencies) => (points) => {
  const D = frequencies.length, cos = new Float64Array(D / 2), sin = new Float64Array(D / 2);
  const share = (2 / points.length) * (2 / D);
  for (let i = 0; i < points.length; i += 2)
    for (let d = 0; d < D; d += 2) {
      const angle = points[i] * frequencies[d] + points[i + 1] * frequencies[d + 1];
      cos[d / 2] += share * Math.cos(angle);
      sin[d / 2] += share * Math.sin(angle);
    }
  return (x, y) => {
    let value = 0, byX = 0, byY = 0;
    for (let d = 0; d < D; d += 2) {
      const angle = x * frequencies[d] + y * frequencies[d + 1], c = Math.cos(angle), s = Math.sin(angle);
      value += cos[d / 2] * c + sin[d / 2] * s;
      const slope = sin[d / 2] * c - cos[d / 2] * s;
      byX += slope * frequencies[d];
      byY += slope * frequencies[d + 1];
    }
    return [value, byX, byY];
  };
};

// The mean of a function over points
export function mean(f, points) {
  let sum = 0;
  for (let i = 0; i < points.length; i += 2) sum += f(points[i], points[i + 1])[0];
  return (2 * sum) / points.length;
}

// mmd2(x, y), the V-statistic
export function mmd2(x, y, kernel) {
  const ofX = kernel(x), ofY = kernel(y);
  return mean(ofX, x) - 2 * mean(ofX, y) + mean(ofY, y);
}

// witness: f(z) = mean k(z, x) − mean k(z, y), and its derivatives
export function witness(x, y, kernel) {
  const ofX = kernel(x), ofY = kernel(y);
  return (...z) => {
    const a = ofX(...z), b = ofY(...z);
    return [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
  };
}

// The gradient of mmd2(x, y) in the points y: chapter 2, section 6. Each of the M points climbs the witness.
export function gradient(x, y, kernel) {
  const f = witness(x, y, kernel), M = y.length / 2, slopes = new Float64Array(2 * M);
  for (let j = 0; j < 2 * M; j += 2) {
    const [, byX, byY] = f(y[j], y[j + 1]);
    slopes[j] = (-2 / M) * byX;
    slopes[j + 1] = (-2 / M) * byY;
  }
  return slopes;
}
