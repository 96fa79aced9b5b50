using Bunraku.Engines;

namespace Bunraku.Hypervisor.X86;

/// <summary>
/// The handlers of the exits that only x86 has, for every engine: a function of the machine, the vCPU and the exit. The buses hold a device's lock while it
/// works.
/// </summary>
internal static class ExitHandler
{
    public static ExitAction Handle(X86Machine vm, X86CpuThread cpu, X86Exit exit)
    {
        switch (exit.Reason)
        {
            case ExitReason.InterruptWindow:
            case ExitReason.NmiWindow:
            case ExitReason.Mwait: // it may end at any time
            // Watched only: the engine executes the instruction with its own result.
            case ExitReason.Pause:
            case ExitReason.Cpuid:
            case ExitReason.CrAccess when exit.Address != 8:
            case ExitReason.DrAccess:
            case ExitReason.DescriptorTable:
            case ExitReason.Rdtsc:
            case ExitReason.Rdpmc:
            case ExitReason.Invlpg:
            case ExitReason.Wbinvd:
                return ExitAction.Continue;

            case ExitReason.Io:
                if (exit.IsWrite) vm.Ports.Write((ushort)exit.Address, exit.Size, (uint)exit.Data);
                else exit.Data = vm.Ports.Read((ushort)exit.Address, exit.Size);
                return ExitAction.Continue;

            case ExitReason.Msr:
                exit.Fault = !(exit.IsWrite ? vm.Msrs.TryWrite(cpu.Cpu.Index, (uint)exit.Address, exit.Data)
                    : vm.Msrs.TryRead(cpu.Cpu.Index, (uint)exit.Address, out exit.Data));
                cpu.LookForEvents();
                return ExitAction.Continue;

            case ExitReason.Hypercall when vm.Paravirtual is { } paravirtual:
                exit.Data = paravirtual.Call(cpu.Cpu.Index, exit.Call);
                return ExitAction.Continue;

            case ExitReason.CrAccess:
                lock (vm.InterruptLock)
                {
                    if (cpu.Interrupts is not { } source) exit.Data = exit.IsWrite ? exit.Data : 0;
                    else if (exit.IsWrite) source.Cr8 = exit.Data & 0xF;
                    else exit.Data = source.Cr8;
                }
                cpu.LookForEvents();
                return ExitAction.Continue;

            case ExitReason.FloatingPointError:
                vm.FloatingPointError?.Set(true);
                return ExitAction.Continue;

            case ExitReason.VirtualizedEoi:
                lock (vm.InterruptLock) vm.EndOfInterrupt?.Invoke((byte)exit.Address);
                return ExitAction.Continue;

            default:
                vm.Stop(new StopCause(StopReason.EngineError, Message: $"no handler for exit {exit.Reason}", Cpu: cpu.Cpu.Index));
                return ExitAction.Stop;
        }
    }
}
