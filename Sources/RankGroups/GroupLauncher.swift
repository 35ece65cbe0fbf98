package import Collectives
internal import Glibc
internal import Processes

/// How a rank group of processes is started.
package enum GroupLauncher {
  /// This process's rank, as mpirun calls it.
  package static var rankName: String {
    getenv("OMPI_COMM_WORLD_RANK").map { String(cString: $0) } ?? "0"
  }
  /// Whether mpirun started this process.
  package static var isRank: Bool { getenv("OMPI_COMM_WORLD_SIZE") != nil }

  /// Open MPI's, by the name that no other MPI's alternative can take.
  package static let program = "/usr/bin/mpirun.openmpi"

  /// Replaces this process by mpirun, which starts this program as `ranks` ranks. Returns only when it
  /// cannot.
  ///
  /// - Parameter arguments: Of the ranks.
  package static func becomeGroup(ranks: Int, arguments: [String]) -> MPIError {
    GroupMemory.sweep()
    var line = [
      program, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "plm",
      "isolated",
    ]
    if let folder = GroupMemory.make() { line += ["--mca", GroupMemory.parameter, folder] }
    line += ["-n", "\(ranks)", "/proc/self/exe".resolved] + arguments
    for descriptor in [STDOUT_FILENO, STDERR_FILENO] { makeNonBlocking(descriptor) }
    var words: [UnsafeMutablePointer<CChar>?] = line.map { strdup($0) }
    words.append(nil)
    execv(program, words)
    let error = MPIError.library("\(program): \(String(cString: strerror(errno)))")
    GroupMemory.sweep()
    return error
  }

  /// mpirun writes what its ranks write from the thread that looks after them: a pipe that nobody reads
  /// would stop it, and with it the end of a broken group. It copes with one that says it is full.
  private static func makeNonBlocking(_ descriptor: Int32) {
    var info = stat()
    guard fstat(descriptor, &info) == 0, info.st_mode & S_IFMT == S_IFIFO else { return }
    // Opened anew, so that whoever shares the old one goes on as before.
    let own = open("/proc/self/fd/\(descriptor)", O_WRONLY | O_NONBLOCK)
    guard own >= 0 else { return }
    dup2(own, descriptor)
    close(own)
  }
}
