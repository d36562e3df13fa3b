// The distributions of chapter 2, as mixtures of normal ones: centres (flat, as points are), shares, variances. The
// arcs and circles are chains of centres, so near to each other that the noise leaves no trace of them.
import { normal } from "./randomness.js";

function mixture(parts) {
  const centres = [], shares = [], variances = [];
  for (const { x, y, share, std } of parts) {
    centres.push(x, y);
    shares.push(share);
    variances.push(std ** 2);
  }
  return { centres, shares, variances };
}

const chain = (n, place) => Array.from({ length: n }, (_, i) => place((i + 0.5) / n));

const moon = (side) =>
  chain(100, (t) => ({
    x: 2 * side * (Math.cos(Math.PI * t) - 0.5),
    y: 2 * side * (Math.sin(Math.PI * t) - 0.25),
    share: 0.5 / 100,
    std: 0.2,
  }));

const ring = (n, radius, share) =>
  chain(n, (t) => ({
    x: radius * Math.cos(2 * Math.PI * t),
    y: radius * Math.sin(2 * Math.PI * t),
    share: share / n,
    std: 0.12,
  }));

export const clouds = {
  moons: mixture([...moon(1), ...moon(-1)]),
  rings: mixture([...ring(60, 1, 1 / 3), ...ring(120, 2.2, 2 / 3)]),
  clusters: mixture([
    { x: -1.6, y: -1.0, share: 0.5, std: 0.3 },
    { x: 1.5, y: -1.3, share: 0.3, std: 0.6 },
    { x: 0.2, y: 1.5, share: 0.2, std: 0.45 },
  ]),
};

// n points of a cloud
export function draw({ centres, shares, variances }, n, random) {
  const points = new Float64Array(2 * n);
  for (let i = 0; i < 2 * n; i += 2) {
    let left = random(), which = 0;
    while (which < shares.length - 1 && left >= shares[which]) left -= shares[which++];
    const std = Math.sqrt(variances[which]);
    points[i] = centres[2 * which] + std * normal(random);
    points[i + 1] = centres[2 * which + 1] + std * normal(random);
  }
  return points;
}

// E k(z, x) over a cloud blurred once more, k Gaussian: the noise makes the kernel wider (`blurred` in chapter 2).
function smoothed({ centres, shares, variances }, x, y, h, more = 0) {
  let sum = 0;
  for (let i = 0; i < shares.length; i++) {
    const wide = h ** 2 + variances[i] + more, square = (centres[2 * i] - x) ** 2 + (centres[2 * i + 1] - y) ** 2;
    sum += ((shares[i] * h ** 2) / wide) * Math.exp(-square / (2 * wide));
  }
  return sum;
}

// Chapter 2's `worth`, a function of a set of points: so many random points have the same MMD² to the distribution, on
// average.
export function worth(cloud, h) {
  const { centres, shares, variances } = cloud;
  let within = 0; // E k(x, x′)
  for (let i = 0; i < shares.length; i++)
    within += shares[i] * smoothed(cloud, centres[2 * i], centres[2 * i + 1], h, variances[i]);
  return (points) => {
    const M = points.length / 2;
    let error = within;
    for (let i = 0; i < 2 * M; i += 2) {
      error -= (2 / M) * smoothed(cloud, points[i], points[i + 1], h);
      for (let j = 0; j < 2 * M; j += 2) {
        const square = (points[i] - points[j]) ** 2 + (points[i + 1] - points[j + 1]) ** 2;
        error += Math.exp(-square / (2 * h ** 2)) / M ** 2;
      }
    }
    return (1 - within) / error;
  };
}
