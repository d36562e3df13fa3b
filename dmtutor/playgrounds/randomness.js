// Random numbers from a seed. They are not PyTorch's: a page repeats the library's algorithms, not its draws.

// Uniform in [0, 1): the generator mulberry32.
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const integer = (n, random) => Math.floor(n * random());

// Standard normal, by Box and Muller.
export const normal = (random) => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());

// The first n of a random order, as torch.randperm(len)[:n].
export function choose(items, n, random) {
  const order = [...items];
  for (let i = 0; i < n; i++) {
    const j = i + integer(order.length - i, random);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order.slice(0, n);
}
