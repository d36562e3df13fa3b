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
    Object.assign(this, { real, config, random, iteration: 0, loss: 0, pieces: this.iterations() });
    const start = {
      real: (pool) => Float64Array.from(choose(pool, 1, random)[0]),
      noise: (pool) => Float64Array.from(pool[0], () => normal(random)),
    };
    this.images = real.map(start[config.init]);
    this.momentum = this.images.map((image) => new Float64Array(image.length));
    [this.seen, this.bySeen, this.gradient] = [1, 2, 3].map(() => new Float64Array(real[0][0].length));
  }

  // A piece of an iteration, as long as one image takes. After the last, true is returned and `loss` is of all classes.
  next() {
    return this.pieces.next().value;
  }

  *iterations() {
    for (;;) {
      if (this.network?.width !== this.config.width) this.network = new ConvNet(this.config.width);
      this.network.resetParameters(this.random);
      this.augment = new SiameseAugment(this.config.augment);
      let loss = 0;
      for (const [c, image] of this.images.entries()) {
        loss += yield* this.match(c, this.draw(c));
        const { lr_img: lr = 512 / this.network.embeddingDim, momentum } = this.config;
        sgd(image, this.gradient, this.momentum[c], { lr, momentum });
      }
      this.loss = loss;
      this.iteration++;
      yield true;
    }
  }

  // A real batch of class c, and one augmentation ω.
  draw(c) {
    const batch = choose(this.real[c], this.config.batch_real, this.random);
    return { batch, omega: this.augment.sample(1, this.random)[0] };
  }

  // The loss of class c, which is returned, and its gradient in the image, into `gradient`.
  *match(c, { batch, omega }) {
    const { network, augment, seen } = this;
    const real = new Float64Array(network.embeddingDim), psi = new Float64Array(network.embeddingDim);
    augment.set(omega);
    for (const image of batch) {
      network.embed(augment.apply(image, seen), psi);
      for (let i = 0; i < psi.length; i++) real[i] += psi[i] / batch.length;
      yield false;
    }
    network.embed(augment.apply(this.images[c], seen), psi);
    const byPsi = psi.map((value, i) => 2 * (value - real[i]));
    augment.transpose(network.pullback(byPsi, this.bySeen, null), this.gradient);
    return meanDistance(real, psi);
  }
}
