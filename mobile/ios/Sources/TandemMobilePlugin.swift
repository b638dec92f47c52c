import Network
import Tauri
import UIKit
import WebKit
import os

class WatchArgs: Decodable {
  let handler: Channel
}

class OnArgs: Decodable {
  let on: Bool
}

/// `Conditions` in Rust; what is nil is left out and unknown there.
struct Conditions: Encodable {
  let thermal: String
  let battery: Float?
  let charging: Bool?
  let powerSaver: Bool
  let memory: UInt64
  let memoryLow: Bool
}

struct Heard: Encodable {
  let signal: String
}

/// The iOS side of `Mobile` in Rust; names and values are those of `src/mobile.rs`.
class TandemMobilePlugin: Plugin {
  private var channel: Channel?
  private var task: UIBackgroundTaskIdentifier = .invalid
  private let paths = NWPathMonitor()
  /// What the default network was; nil until the monitor has said it.
  private var network: String?

  /// Conversations stay on this device, and models are too large for a backup.
  @objc public override func load(webview: WKWebView) {
    let files = FileManager.default.urls(for: .applicationSupportDirectory, in: .userDomainMask)
    var values = URLResourceValues()
    values.isExcludedFromBackup = true
    for var folder in files {
      try? FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      try? folder.setResourceValues(values)
    }
  }

  private func tell(_ signal: String) {
    try? channel?.send(Heard(signal: signal))
  }

  @objc public func watch(_ invoke: Invoke) throws {
    let first = channel == nil
    channel = try invoke.parseArgs(WatchArgs.self).handler
    if first {
      DispatchQueue.main.async {
        self.observe()
      }
    }
    invoke.resolve()
  }

  private func observe() {
    UIDevice.current.isBatteryMonitoringEnabled = true
    on(ProcessInfo.thermalStateDidChangeNotification) { $0.tell("changed") }
    on(.NSProcessInfoPowerStateDidChange) { $0.tell("changed") }
    on(UIDevice.batteryLevelDidChangeNotification) { $0.tell("changed") }
    on(UIDevice.batteryStateDidChangeNotification) { $0.tell("changed") }
    on(UIApplication.didReceiveMemoryWarningNotification) { $0.tell("memory") }
    on(UIApplication.didEnterBackgroundNotification) { $0.tell("paused") }
    on(UIApplication.willEnterForegroundNotification) { $0.tell("resumed") }
    paths.pathUpdateHandler = { [weak self] path in
      self?.changed(path)
    }
    paths.start(queue: .main)
  }

  private func on(_ name: Notification.Name, _ act: @escaping (TandemMobilePlugin) -> Void) {
    NotificationCenter.default.addObserver(forName: name, object: nil, queue: .main) {
      [weak self] _ in
      if let plugin = self {
        act(plugin)
      }
    }
  }

  /// The monitor also speaks when only the cost of the same network changed.
  private func changed(_ path: NWPath) {
    guard path.status == .satisfied, let interface = path.availableInterfaces.first else { return }
    let gateways = path.gateways.map { "\($0)" }.joined(separator: ",")
    let now = "\(interface.name) \(gateways)"
    let before = network
    network = now
    if before != nil && before != now {
      tell("network")
    }
  }

  @objc public func conditions(_ invoke: Invoke) {
    DispatchQueue.main.async {
      let device = UIDevice.current
      let known = device.batteryState != .unknown && device.batteryLevel >= 0
      invoke.resolve(
        Conditions(
          thermal: Self.thermal(ProcessInfo.processInfo.thermalState),
          battery: known ? device.batteryLevel : nil,
          charging: known ? device.batteryState != .unplugged : nil,
          powerSaver: ProcessInfo.processInfo.isLowPowerModeEnabled,
          // What this app may still take before the system ends it.
          memory: UInt64(os_proc_available_memory()),
          memoryLow: false))
    }
  }

  private static func thermal(_ state: ProcessInfo.ThermalState) -> String {
    switch state {
    case .nominal: return "cool"
    case .fair: return "warm"
    case .serious: return "hot"
    case .critical: return "critical"
    @unknown default: return "critical"
    }
  }

  @objc public func keepAwake(_ invoke: Invoke) throws {
    let on = try invoke.parseArgs(OnArgs.self).on
    DispatchQueue.main.async {
      UIApplication.shared.isIdleTimerDisabled = on
      invoke.resolve()
    }
  }

  /// iOS gives about half a minute, and no notification is needed for that.
  @objc public func beginWork(_ invoke: Invoke) {
    DispatchQueue.main.async {
      if self.task == .invalid {
        self.task = UIApplication.shared.beginBackgroundTask(withName: "answer") {
          self.end()
        }
      }
      if self.task == .invalid {
        invoke.reject("the system does not let the app work in the background now")
      } else {
        invoke.resolve()
      }
    }
  }

  @objc public func endWork(_ invoke: Invoke) {
    DispatchQueue.main.async {
      self.end()
      invoke.resolve()
    }
  }

  private func end() {
    if task != .invalid {
      UIApplication.shared.endBackgroundTask(task)
      task = .invalid
    }
  }

  /// iOS hears announcements whenever the person allowed the local network.
  @objc public func listen(_ invoke: Invoke) {
    invoke.resolve()
  }
}

@_cdecl("init_plugin_tandem_mobile")
func initPlugin() -> Plugin {
  return TandemMobilePlugin()
}
