package import Collectives
internal import Glibc

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
    var words: [UnsafeMutablePointer<CChar>?] = line.map { strdup($0) }
    words.append(nil)
    execv(program, words)
    let error = MPIError.library("\(program): \(String(cString: strerror(errno)))")
    GroupMemory.sweep()
    return error
  }
}
