"""The simulated quadrotor: airframes, batched dynamics, start conditions and the RAPTOR protocol.

    from sim.quadrotor import airframes, dynamics
    fleet = airframes.sample(count=4096, seed=0)
    state = dynamics.hover_state(fleet)
    state = dynamics.step(state, fleet.hover_action, fleet, force=torch.zeros(3, 4096), dt=0.01)

Tensors are laid out (quantity, N): N simulated quadrotors last, so that one instruction moves
many of them. World ENU, body FLU, SI units, quaternions xyzw.
"""
