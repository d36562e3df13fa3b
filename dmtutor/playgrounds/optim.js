// torch.optim.SGD: v ← momentum · v + gradient + weightDecay · x, then x ← x − lr · v, in place.
export function sgd(x, gradient, v, { lr, momentum, weightDecay = 0 }) {
  for (let i = 0; i < x.length; i++) {
    v[i] = momentum * v[i] + gradient[i] + weightDecay * x[i];
    x[i] -= lr * v[i];
  }
}
