import Foundation
import NIXL
import NIXLTransfer
import Processes
import RemoteG2Runtime
import Testing

/// Runs one case of the test host, which prints what failed.
func runTestHost(
  _ name: String, transport: String = "tcp"
) throws -> (status: Int32, output: String, errors: String) {
  try ChildProcess.run(
    URL(fileURLWithPath: "/proc/self/exe".resolved).deletingLastPathComponent()
      .appendingPathComponent("remote-g2-testhost").path, [name],
    environment: ["UCX_TLS": transport, "SWIFT_BACKTRACE": "enable=no"],
    timeout: .seconds(120))
}

/// Asked of a child: this process must not load UCX.
let hasNIXL =
  (try? runTestHost("metadata")).map { !$0.output.contains("NIXL was not found") } ?? false

@Suite(
  .serialized,
  .enabled(if: hasNIXL, "NIXL is not installed: scripts/setup unpacks it into .deps"))
struct `NIXL across processes` {
  @Test(arguments: ["tcp", "all"]) func `the NIXL transport conforms`(transport: String) throws {
    let (status, output, _) = try runTestHost("conformance", transport: transport)
    #expect(status == 0, "\(output)")
  }

  @Test func `a killed source fails what is in flight, and it goes quiet`() throws {
    let (status, output, _) = try runTestHost("killed")
    #expect(status == 0, "\(output)")
  }

  @Test func `a stopped source is never reported, and lands everything when it goes on`() throws {
    let (status, output, _) = try runTestHost("stopped")
    #expect(status == 0, "\(output)")
  }

  @Test func `bad metadata never reaches NIXL, and costs no good peer`() throws {
    let (status, output, _) = try runTestHost("metadata")
    #expect(status == 0, "\(output)")
  }

  @Test func `an idle agent makes room for another source, and a busy one does not`() throws {
    let (status, output, _) = try runTestHost("agents")
    #expect(status == 0, "\(output)")
  }

  @Test func `a request dropped in flight is released only once it is terminal`() throws {
    let (status, output, _) = try runTestHost("orphan")
    #expect(status == 0, "\(output)")
  }
}

@Suite struct `NIXL absent or broken` {
  @Test func `a library that is not there says so`() {
    let discovery = NIXLDiscovery(explicitPath: "/nonexistent/libnixl_capi.so")
    #expect(discovery.library == nil)
    #expect(discovery.explanation.contains("there is no such file"))
  }

  @Test func `a library that is something else says what it lacks`() {
    let discovery = NIXLDiscovery(explicitPath: "/lib/x86_64-linux-gnu/libc.so.6")
    #expect(discovery.library == nil)
    #expect(discovery.explanation.contains("nixl_capi_create_configured_agent"))
  }

  @Test func `a file that is no library gives the loader's words`() {
    let discovery = NIXLDiscovery(
      explicitPath: nil, environment: ["NIXL_LIBRARY_PATH": "/etc/hostname"])
    #expect(discovery.library == nil)
    #expect(discovery.candidates.map(\.origin) == ["NIXL_LIBRARY_PATH"])
    #expect(!discovery.explanation.isEmpty)
  }
}
