"""The thread of the tensors: jobs by priority, a step at a time, and what cores a step takes."""
