"""How derivatives are formed: products with the Hessian, per-example gradients."""
