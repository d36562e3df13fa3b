// 28×28 images as arrays of 784 numbers, row by row.

export const SIDE = 28;

// Images from the text that dmtutor.playgrounds.encode made, normalised: a letter is two pixels of eight greys, or a
// run of black ones.
export function decode(text, alphabet, mean, std) {
  const codes = new Uint8Array(128), images = [];
  for (let i = 0; i < alphabet.length; i++) codes[alphabet.charCodeAt(i)] = i + 1;
  const shades = Array.from({ length: 8 }, (_, level) => (level / 7 - mean) / std);
  let image, at = SIDE ** 2;
  for (let i = 0; i < text.length; i++) {
    if (at === SIDE ** 2) {
      image = new Float64Array(SIDE ** 2).fill(shades[0]);
      images.push(image);
      at = 0;
    }
    const code = codes[text.charCodeAt(i)];
    if (code < 64) {
      image[at] = shades[code >> 3];
      image[at + 1] = shades[code & 7];
    }
    at += code < 64 ? 2 : 2 * (code - 63);
  }
  return images;
}

// Draws an image on a canvas of its size.
export function paint(canvas, image, mean, std) {
  const picture = new ImageData(SIDE, SIDE);
  image.forEach((value, i) => {
    picture.data.fill(255 * (value * std + mean), 4 * i, 4 * i + 3); // clamped
    picture.data[4 * i + 3] = 255;
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

// A drawing, (side, side) numbers in [0, 1], as MNIST was made of its scans: scaled so that the longer side of its ink
// is 20 pixels, and moved so that its centre of mass is in the middle of 28×28. null where there is no ink.
export function likeMnist(ink, side) {
  let left = side, right = -1, top = side, bottom = -1;
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++)
      if (ink[y * side + x] > 0.2) {
        left = Math.min(left, x);
        right = Math.max(right, x);
        top = Math.min(top, y);
        bottom = Math.max(bottom, y);
      }
  if (right < 0) return null;
  const pixel = Math.max(right - left + 1, bottom - top + 1) / 20; // of the small image, in the drawing
  const x0 = (left + right + 1) / 2 - 10 * pixel, y0 = (top + bottom + 1) / 2 - 10 * pixel;
  const small = [];
  let mass = 0, massX = 0, massY = 0;
  for (let y = 0; y < 20; y++)
    for (let x = 0; x < 20; x++) {
      const value = boxMean(ink, side, x0 + x * pixel, y0 + y * pixel, pixel);
      small.push(value);
      mass += value;
      massX += value * (x + 0.5);
      massY += value * (y + 0.5);
    }
  const moveX = Math.round(14 - massX / mass), moveY = Math.round(14 - massY / mass);
  const image = new Float64Array(SIDE ** 2);
  small.forEach((value, i) => {
    const x = (i % 20) + moveX, y = Math.floor(i / 20) + moveY;
    if (x >= 0 && x < SIDE && y >= 0 && y < SIDE) image[y * SIDE + x] = value;
  });
  return image;
}

function boxMean(ink, side, x0, y0, size) {
  let sum = 0, count = 0;
  for (let y = Math.floor(y0); y < Math.ceil(y0 + size); y++)
    for (let x = Math.floor(x0); x < Math.ceil(x0 + size); x++) {
      count++;
      if (x >= 0 && x < side && y >= 0 && y < side) sum += ink[y * side + x];
    }
  return sum / count;
}
