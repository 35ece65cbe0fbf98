/// The result of one transition: where the machine goes, and what the shell must do about it.
///
/// A path that forgets the next state, or names two of them, does not compile.
package struct Step<State: ~Copyable, Action>: ~Copyable {
  fileprivate let next: State
  fileprivate let action: Action

  package init(_ next: consuming State, _ action: Action) {
    self.next = next
    self.action = action
  }
}

/// Holds one state and moves it only through whole transitions.
package struct Machine<State: ~Copyable>: ~Copyable {
  private var state: State

  package init(_ initial: consuming State) { state = initial }

  package mutating func advance<Action>(
    _ transition: (consuming State) -> Step<State, Action>
  ) -> Action {
    let step = transition(state)
    let action = step.action
    self = .init(step.next)
    return action
  }

  package func read<Value>(_ body: (borrowing State) -> Value) -> Value { body(state) }
}
