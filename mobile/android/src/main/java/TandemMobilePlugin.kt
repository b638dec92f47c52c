package app.tandem.mobile

import android.Manifest
import android.app.Activity
import android.app.ActivityManager
import android.content.BroadcastReceiver
import android.content.ComponentCallbacks2
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.content.pm.PackageManager
import android.content.res.Configuration
import android.net.ConnectivityManager
import android.net.Network
import android.net.wifi.WifiManager
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import android.view.WindowManager
import androidx.appcompat.app.AppCompatActivity
import androidx.core.app.ActivityCompat
import androidx.core.content.ContextCompat
import app.tauri.annotation.Command
import app.tauri.annotation.InvokeArg
import app.tauri.annotation.TauriPlugin
import app.tauri.plugin.Channel
import app.tauri.plugin.Invoke
import app.tauri.plugin.JSObject
import app.tauri.plugin.Plugin

@InvokeArg
internal class WatchArgs {
  lateinit var handler: Channel
}

@InvokeArg
internal class OnArgs {
  var on: Boolean = false
}

@InvokeArg
internal class NoticeArgs {
  lateinit var channel: String
  lateinit var title: String
}

/** The Android side of `Mobile` in Rust; names and values are those of `src/mobile.rs`. */
@TauriPlugin
class TandemMobilePlugin(private val activity: Activity) : Plugin(activity) {
  // The app's context outlives the activity, which the system may make anew.
  private val app: Context = activity.applicationContext
  private val power = app.getSystemService(Context.POWER_SERVICE) as PowerManager
  private val batteries = app.getSystemService(Context.BATTERY_SERVICE) as BatteryManager
  private val processes = app.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager
  private val connections =
    app.getSystemService(Context.CONNECTIVITY_SERVICE) as ConnectivityManager
  private var channel: Channel? = null
  private var network: Network? = null
  private var multicast: WifiManager.MulticastLock? = null
  // The activity that is on the screen now.
  private var shown: Activity = activity

  private fun tell(signal: String) {
    val event = JSObject()
    event.put("signal", signal)
    channel?.send(event)
  }

  @Command
  fun watch(invoke: Invoke) {
    val first = channel == null
    channel = invoke.parseArgs(WatchArgs::class.java).handler
    if (first) {
      watchPower()
      watchMemory()
      watchNetwork()
    }
    invoke.resolve()
  }

  private fun watchPower() {
    if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
      power.addThermalStatusListener { tell("changed") }
    }
    val changes = IntentFilter(PowerManager.ACTION_POWER_SAVE_MODE_CHANGED)
    changes.addAction(Intent.ACTION_BATTERY_LOW)
    changes.addAction(Intent.ACTION_BATTERY_OKAY)
    changes.addAction(Intent.ACTION_POWER_CONNECTED)
    changes.addAction(Intent.ACTION_POWER_DISCONNECTED)
    val receiver = object : BroadcastReceiver() {
      override fun onReceive(context: Context, intent: Intent) {
        tell("changed")
      }
    }
    ContextCompat.registerReceiver(app, receiver, changes, ContextCompat.RECEIVER_NOT_EXPORTED)
  }

  private fun watchMemory() {
    app.registerComponentCallbacks(object : ComponentCallbacks2 {
      override fun onTrimMemory(level: Int) {
        // A hidden window alone is no shortage; newer systems say nothing between that and
        // BACKGROUND, where the app may be ended to make room.
        val running = level == ComponentCallbacks2.TRIM_MEMORY_RUNNING_LOW ||
          level == ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL
        if (running || level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) {
          tell("memory")
        }
      }

      @Deprecated("onTrimMemory says more, but older systems call this one")
      override fun onLowMemory() {
        tell("memory")
      }

      override fun onConfigurationChanged(configuration: Configuration) {}
    })
  }

  private fun watchNetwork() {
    connections.registerDefaultNetworkCallback(object : ConnectivityManager.NetworkCallback() {
      override fun onAvailable(now: Network) {
        val before = network
        network = now
        // The first call tells what is there already.
        if (before != null && before != now) {
          tell("network")
        }
      }
    })
  }

  override fun onPause(activity: AppCompatActivity) {
    tell("paused")
  }

  override fun onResume(activity: AppCompatActivity) {
    shown = activity
    tell("resumed")
  }

  @Command
  fun conditions(invoke: Invoke) {
    val memory = ActivityManager.MemoryInfo()
    processes.getMemoryInfo(memory)
    val now = JSObject()
    now.put("thermal", thermal())
    val percent = batteries.getIntProperty(BatteryManager.BATTERY_PROPERTY_CAPACITY)
    if (percent in 0..100) {
      now.put("battery", percent / 100.0)
      now.put("charging", batteries.isCharging)
    }
    now.put("powerSaver", power.isPowerSaveMode)
    now.put("memory", memory.availMem)
    now.put("memoryLow", memory.lowMemory)
    invoke.resolve(now)
  }

  private fun thermal(): String? {
    if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) {
      return null
    }
    return when (power.currentThermalStatus) {
      PowerManager.THERMAL_STATUS_NONE -> "cool"
      PowerManager.THERMAL_STATUS_LIGHT -> "warm"
      PowerManager.THERMAL_STATUS_MODERATE -> "hot"
      else -> "critical"
    }
  }

  @Command
  fun keepAwake(invoke: Invoke) {
    val on = invoke.parseArgs(OnArgs::class.java).on
    shown.runOnUiThread {
      val flag = WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON
      if (on) shown.window.addFlags(flag) else shown.window.clearFlags(flag)
    }
    invoke.resolve()
  }

  @Command
  fun beginWork(invoke: Invoke) {
    val args = invoke.parseArgs(NoticeArgs::class.java)
    askForNotifications()
    try {
      AnswerService.begin(app, args.channel, args.title)
      invoke.resolve()
    } catch (e: RuntimeException) {
      // From Android 12 on, not while the app is in the background already.
      invoke.reject("the system does not let the app work in the background now: ${e.message}")
    }
  }

  @Command
  fun endWork(invoke: Invoke) {
    AnswerService.end()
    invoke.resolve()
  }

  /** The service runs without it too; then the notification is not shown. */
  private fun askForNotifications() {
    if (Build.VERSION.SDK_INT < Build.VERSION_CODES.TIRAMISU) {
      return
    }
    val permission = Manifest.permission.POST_NOTIFICATIONS
    val granted = PackageManager.PERMISSION_GRANTED
    if (ContextCompat.checkSelfPermission(app, permission) != granted) {
      shown.runOnUiThread { ActivityCompat.requestPermissions(shown, arrayOf(permission), 1) }
    }
  }

  @Command
  fun listen(invoke: Invoke) {
    val on = invoke.parseArgs(OnArgs::class.java).on
    if (on && multicast == null) {
      val wifi = app.getSystemService(Context.WIFI_SERVICE) as WifiManager
      multicast = wifi.createMulticastLock("tandem").apply { acquire() }
    } else if (!on) {
      multicast?.release()
      multicast = null
    }
    invoke.resolve()
  }
}
