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

/// The folder of shared memory that the ranks of one group talk through.
///
/// It is named after their mpirun, so that whoever starts a group next can take away what a killed one
/// left behind.
package enum GroupMemory {
  /// Of Open MPI: where its shared-memory transport puts its segments.
  static let parameter = "btl_vader_backing_directory"
  private static let root = "/dev/shm"

  /// Processes are numbered within their namespace, and namespaces may share the memory.
  private static var prefix: String {
    let namespace = "/proc/self/ns/pid".resolved.filter(\.isNumber)
    return "remote-g2-group-\(namespace)-"
  }

  /// Makes the folder of this process, which is about to become mpirun. Nil: Open MPI has to do with
  /// its own place.
  static func make() -> String? {
    let folder = "\(root)/\(prefix)\(getpid())"
    return mkdir(folder, 0o700) == 0 ? folder : nil
  }

  /// Takes away the folders of groups whose mpirun is no more, and of this process.
  static func sweep() {
    for name in ProcFile.names(in: root) where name.hasPrefix(prefix) {
      guard let owner = Int32(name.dropFirst(prefix.count)) else { continue }
      guard owner == getpid() || (kill(owner, 0) != 0 && errno == ESRCH) else { continue }
      let folder = "\(root)/\(name)"
      // Another user's stays: neither call does anything to it.
      for segment in ProcFile.names(in: folder) { unlink("\(folder)/\(segment)") }
      rmdir(folder)
    }
  }

  /// A rank has left its group: whichever is the last to do so takes the folder with it.
  package static func leave() {
    guard let folder = getenv("OMPI_MCA_\(parameter)").map({ String(cString: $0) }),
      folder.hasPrefix("\(root)/\(prefix)")
    else { return }
    // Not empty: other ranks are still leaving.
    rmdir(folder)
  }
}
