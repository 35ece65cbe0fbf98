internal import Glibc
internal import LocalStore
internal import OSThreads
internal import Processes
package import RemoteG2Core

/// How the process that serves is started: with its connection to the keeper as its standard input.
package struct KeeperLaunch: Sendable {
  package let program: String
  package let arguments: [String]

  package init(program: String, arguments: [String]) {
    self.program = program
    self.arguments = arguments
  }
}

/// Keeps the files of a node's pools while processes that serve from them come and go. It maps none of them, and
/// opens no connection: what could end a process is in the other one. The shell of a ``KeeperMachine``.
package final class Keeper: Sendable {
  private let launch: KeeperLaunch
  private let limits: Limits
  private let log: @Sendable (String) -> Void
  private let bell = EventBell()
  private let isTold = Guarded(false)

  package init(
    _ launch: KeeperLaunch, limits: Limits, log: @escaping @Sendable (String) -> Void
  ) {
    self.launch = launch
    self.limits = limits
    self.log = log
  }

  /// Ends the process that serves as it would be told itself, and then ``run()``.
  package func end() {
    isTold.withLock { $0 = true }
    bell.ring()
  }

  /// Blocks its thread until nothing is left to do. Whoever serves is killed when this thread ends.
  ///
  /// - Returns: What the last process ended with.
  package func run() -> Int32 {
    KeeperLoop(launch, limits, bell, log).run { isTold.withLock { $0 } }
  }
}

private final class KeeperLoop {
  /// Looks so often while something is to be seen that wakes nobody.
  private static let lookPause: Duration = .milliseconds(2)

  private let launch: KeeperLaunch
  private let limits: Limits
  private let bell: EventBell
  private let log: @Sendable (String) -> Void
  private var machine: KeeperMachine
  private var child: ChildProcess?
  private var socket: LocalSocket?
  private var port: UInt16 = 0
  private var kept: [KeptFiles] = []
  /// What the process that has been started has not been sent yet.
  private var outgoing: [(message: KeeperMessage, descriptors: [Int32])] = []
  /// Those that could not be seen to end.
  private var lost: [ChildProcess] = []
  private var status: Int32?

  init(
    _ launch: KeeperLaunch, _ limits: Limits, _ bell: EventBell,
    _ log: @escaping @Sendable (String) -> Void
  ) {
    self.launch = launch
    self.limits = limits
    self.bell = bell
    self.log = log
    machine = KeeperMachine(limits: limits)
  }

  func run(until isTold: () -> Bool) -> Int32 {
    perform(machine.began(at: MonotonicClock.now()))
    while status == nil {
      if isTold() { perform(machine.toldToEnd(at: MonotonicClock.now())) }
      send()
      hear()
      look()
      perform(machine.timePassed(at: MonotonicClock.now()))
      guard status == nil else { break }
      let now = MonotonicClock.now()
      let isDying = child != nil && socket == nil
      let pause = isDying || !outgoing.isEmpty ? Self.lookPause : .seconds(1)
      _ = bell.wait(
        until: min(machine.nextDeadline ?? now + pause, now + pause),
        hearing: socket.map { [$0.descriptor] } ?? [])
    }
    return status ?? 0
  }

  private func perform(_ orders: [KeeperMachine.Order]) {
    for order in orders {
      switch order {
      case .start(let life): start(life)
      case .forget:
        kept = []
        if let child { lost.append(child) }
        child = nil
      case .tellToEnd: child?.signal(SIGTERM)
      case .kill: child?.signal(SIGKILL)
      case .tell(let what): log(what)
      case .end(let status):
        if let child, child.exitStatus == nil { child.signal(SIGKILL) }
        self.status = status
      }
    }
  }

  private func start(_ life: Int) {
    outgoing = []
    socket = nil
    guard let (own, its) = LocalSocket.pair() else {
      return failed("no connection to it can be made")
    }
    do throws(ChildProcess.SpawnError) {
      child = try ChildProcess(
        launch.program, launch.arguments, input: its.descriptor, output: STDOUT_FILENO,
        error: STDERR_FILENO)
    } catch { return failed("\(error)") }
    withExtendedLifetime(its) {}
    socket = own
    for files in kept {
      outgoing += files.inOrder.map { (.keep(files.files, part: $0.part), $0.descriptors) }
    }
    outgoing.append((.begin(life: UInt32(clamping: life), port: port), []))
    send()
  }

  private func failed(_ why: String) {
    log(why)
    perform(machine.couldNotStart(at: MonotonicClock.now()))
  }

  private func send() {
    while let (message, descriptors) = outgoing.first, let socket,
      socket.sendPacket(message.bytes, descriptors: descriptors)
    { outgoing.removeFirst() }
  }

  private func hear() {
    while let socket {
      switch socket.receivePacket(atMost: KeeperMessage.bytesMax) {
      case .nothing: return
      case .closed:
        self.socket = nil
        outgoing = []
        machine.connectionEnded(at: MonotonicClock.now())
      case .bytes(let bytes, let received):
        guard let message = bytes.withUnsafeBytes({ try? KeeperMessage($0) }) else { continue }
        took(message, received)
      }
    }
  }

  private func took(_ message: KeeperMessage, _ received: ReceivedDescriptors) {
    switch message {
    case .keep(let name, let part):
      let files =
        kept.first { $0.files == name }
        ?? {
          let files = KeptFiles(name)
          kept.append(files)
          return files
        }()
      if !files.add(part: part, received) {
        log("some of a pool's files did not come (ulimit -n): it will not outlive its process")
        kept.removeAll { $0.files == name }
      }
    case .drop(let name): kept.removeAll { $0.files == name }
    case .serves(let port):
      self.port = port
      machine.serves(at: MonotonicClock.now())
    case .settled: machine.settled()
    case .begin: break
    }
  }

  private func look() {
    lost.removeAll { $0.hasEnded() && $0.exitStatus != nil }
    guard let child, child.hasEnded(), let status = child.exitStatus else { return }
    // Its number may be another's from now on.
    self.child = nil
    // What it has said before it ended.
    hear()
    socket = nil
    perform(machine.reaped(status, at: MonotonicClock.now()))
  }
}
