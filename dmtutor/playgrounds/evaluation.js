// What a small set is worth: train_network and correctness of dmtutor/evaluation.py.
import { sgd } from "./optim.js";

// train_network, step by step: yields after each, so that a page stays alive. The fields of `recipe` are Recipe's, but
// `augment` is the SiameseAugment itself. All images are one batch.
export function* trainNetwork(network, images, labels, recipe, random) {
  const like = () => network.parameters.map((p) => new Float64Array(p.length));
  const velocity = like(), gradients = like(), seen = new Float64Array(images[0].length);
  for (let step = 0; step < recipe.steps; step++) {
    for (const gradient of gradients) gradient.fill(0);
    recipe.augment.sample(images.length, random).forEach((omega, i) => {
      const x = recipe.augment.set(omega).apply(images[i], seen);
      addGradients(network, x, labels[i], 1 / images.length, gradients);
    });
    const lr = recipe.lr * (step < Math.max(1, Math.floor(recipe.steps / 2)) ? 1 : 0.1);
    const { momentum, weight_decay: weightDecay } = recipe;
    for (const [i, p] of network.parameters.entries())
      sgd(p, gradients[i], velocity[i], { lr, momentum, weightDecay });
    yield step + 1;
  }
}

// Adds the gradients of `share` times the cross-entropy of one image.
function addGradients(network, image, label, share, gradients) {
  const psi = network.embed(image, new Float64Array(network.embeddingDim)), byPsi = new Float64Array(psi.length);
  const { weight } = network.classifier, [byWeight, byBias] = gradients.slice(-2);
  softmax(network.logits(psi)).forEach((p, k) => {
    const g = share * (p - (k === label ? 1 : 0));
    byBias[k] += g;
    for (let i = 0; i < psi.length; i++) {
      byWeight[k * psi.length + i] += g * psi[i];
      byPsi[i] += g * weight[k * psi.length + i];
    }
  });
  network.pullback(byPsi, null, gradients);
}

function softmax(logits) {
  const top = Math.max(...logits), exp = logits.map((z) => Math.exp(z - top)), sum = exp.reduce((a, b) => a + b);
  return exp.map((e) => e / sum);
}

// Probabilities of the classes, for one image.
export function probabilities(network, image) {
  return softmax(network.logits(network.embed(image, new Float64Array(network.embeddingDim))));
}

export const argmax = (values) => values.indexOf(Math.max(...values));

// correctness, of one image
export const correct = (network, image, label) => argmax(probabilities(network, image)) === label;
