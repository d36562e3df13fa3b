// Distribution matching: dm_steps of dmtutor/distribution_matching.py, for one synthetic image a class.
import { SiameseAugment } from "./augmentation.js";
import { ConvNet } from "./networks.js";
import { sgd } from "./optim.js";
import { choose, normal } from "./randomness.js";

// mean_distance: ‖mean ψ(x) − ψ(s)‖², of the two means
export function meanDistance(real, syn) {
  return real.reduce((sum, value, i) => sum + (value - syn[i]) ** 2, 0);
}

// DMSteps. `real` holds for each class its images, (784,) each; the fields of `config` are DMConfig's. All but init can
// be changed on the way.
export class DMSteps {
  constructor(real, config, random) {
    Object.assign(this, { real, config, random, iteration: 0, c: 0, loss: 0 });
    const start = {
      real: (pool) => Float64Array.from(choose(pool, 1, random)[0]),
      noise: (pool) => Float64Array.from(pool[0], () => normal(random)),
    };
    this.images = real.map(start[config.init]);
    this.momentum = this.images.map((image) => new Float64Array(image.length));
    [this.seen, this.bySeen, this.gradient] = [1, 2, 3].map(() => new Float64Array(real[0][0].length));
  }

  // One class of an iteration. The first draws the network; after the last, true is returned and `loss` is the sum.
  next() {
    const { config, random, c } = this;
    if (!c) {
      if (this.network?.width !== config.width) this.network = new ConvNet(config.width);
      this.network.resetParameters(random);
      this.augment = new SiameseAugment(config.augment);
      this.sum = 0;
    }
    this.sum += this.match(c, this.draw(c));
    const lr = config.lr_img ?? 512 / this.network.embeddingDim;
    sgd(this.images[c], this.gradient, this.momentum[c], { lr, momentum: config.momentum });
    this.c = (c + 1) % this.real.length;
    if (this.c) return false;
    this.loss = this.sum;
    this.iteration++;
    return true;
  }

  // A real batch of class c, and one augmentation ω.
  draw(c) {
    const batch = choose(this.real[c], this.config.batch_real, this.random);
    return { batch, omega: this.augment.sample(1, this.random)[0] };
  }

  // The loss of class c, which is returned, and its gradient in the image, into `gradient`.
  match(c, { batch, omega }) {
    const { network, augment, seen } = this;
    const real = new Float64Array(network.embeddingDim), psi = new Float64Array(network.embeddingDim);
    augment.set(omega);
    for (const image of batch) {
      network.embed(augment.apply(image, seen), psi);
      for (let i = 0; i < psi.length; i++) real[i] += psi[i] / batch.length;
    }
    network.embed(augment.apply(this.images[c], seen), psi);
    const byPsi = psi.map((value, i) => 2 * (value - real[i]));
    augment.transpose(network.pullback(byPsi, this.bySeen, null), this.gradient);
    return meanDistance(real, psi);
  }
}
