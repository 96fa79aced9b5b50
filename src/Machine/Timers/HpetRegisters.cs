namespace Bunraku.Machine.Timers;

// Registers of the IA-PC HPET (High Precision Event Timers) Specification, revision 1.0a, section 2.3 "Register Details".

/// <summary>Offsets; timer n's registers follow at <see cref="FirstTimer"/> + n × <see cref="TimerStride"/>.</summary>
internal static class HpetRegister
{
    public const ulong Capabilities = 0x000, Configuration = 0x010, InterruptStatus = 0x020, MainCounter = 0x0F0, FirstTimer = 0x100, TimerStride = 0x20;
    /// <summary>Within a timer.</summary>
    public const ulong TimerConfiguration = 0x00, Comparator = 0x08, FsbRoute = 0x10;
}

/// <summary>General configuration register, section 2.3.5.</summary>
[Flags]
internal enum HpetConfiguration : ulong
{
    /// <summary>ENABLE_CNF: the main counter runs and interrupts come.</summary>
    Enable = 1 << 0,
    /// <summary>LEG_RT_CNF: timer 0 replaces the 8254 on IRQ 0, timer 1 the clock on IRQ 8.</summary>
    LegacyReplacement = 1 << 1,
}

/// <summary>Timer configuration and capability register, section 2.3.8. The route is in bits 13:9, what it can be in 63:32.</summary>
[Flags]
internal enum HpetTimerConfiguration : ulong
{
    LevelTriggered = 1 << 1,
    InterruptEnable = 1 << 2,
    Periodic = 1 << 3,
    PeriodicCapable = 1 << 4,
    Is64Bit = 1 << 5,
    /// <summary>The next write to the comparator sets the accumulator of a periodic timer too.</summary>
    ValueSet = 1 << 6,
    Forced32Bit = 1 << 8,
    RouteMask = 0x1F << 9,
    /// <summary>FSB_EN_CNF: the interrupt is a message.</summary>
    FsbEnable = 1 << 14,
    FsbCapable = 1 << 15,

    Writable = LevelTriggered | InterruptEnable | Periodic | ValueSet | Forced32Bit | RouteMask | FsbEnable,
}
