using Bunraku.Engines;

namespace Bunraku.Hypervisor;

/// <summary>What the run loop does after an exit.</summary>
public enum ExitAction
{
    Continue,
    Stop,
}

/// <summary>
/// The one set of exit handlers, for every engine: a function of the machine, the vCPU and the exit. The buses hold a device's lock while it works.
/// </summary>
public static class ExitHandler
{
    public static ExitAction Handle(VirtualMachine vm, CpuThread cpu, VmExit exit)
    {
        switch (exit.Reason)
        {
            case ExitReason.Kicked:
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

            case ExitReason.Mmio:
                if (exit.IsWrite ? cpu.LocalMmio.TryWrite(exit.Address, exit.Size, exit.Data) : cpu.LocalMmio.TryRead(exit.Address, exit.Size, out exit.Data)) cpu.LookForEvents();
                else if (exit.IsWrite) vm.Mmio.Write(exit.Address, exit.Size, exit.Data);
                else exit.Data = vm.Mmio.Read(exit.Address, exit.Size);
                return ExitAction.Continue;

            case ExitReason.Msr:
                exit.Fault = !(exit.IsWrite ? vm.Msrs.TryWrite(cpu.Cpu.Index, (uint)exit.Address, exit.Data) : vm.Msrs.TryRead(cpu.Cpu.Index, (uint)exit.Address, out exit.Data));
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

            case ExitReason.Hlt:
                cpu.LookForEvents(); // the vCPU itself remembers that it waits, but it may have been told to go on before
                return ExitAction.Continue;

            case ExitReason.EptViolation when vm.PageViolation is { } answer && answer(cpu, exit):
                return ExitAction.Continue;

            case ExitReason.EptViolation:
                vm.Stop(new StopCause(StopReason.EngineError, Cpu: cpu.Cpu.Index,
                    Message: $"nobody answers for the guest's access ({exit.Violation.Wanted}) to page {exit.Address & ~0xFFFul:X}, whose rights were taken away: set VirtualMachine.PageViolation"));
                return ExitAction.Stop;

            case ExitReason.TripleFault:
                if (ShutdownCause.IsReset(vm.Memory, cpu.Cpu))
                {
                    vm.RequestReset();
                    return ExitAction.Continue;
                }
                vm.Stop(new StopCause(StopReason.TripleFault, Cpu: cpu.Cpu.Index));
                return ExitAction.Stop;

            case ExitReason.InternalError:
                vm.Stop(new StopCause(StopReason.EngineError, Message: exit.Message, Cpu: cpu.Cpu.Index));
                return ExitAction.Stop;

            default:
                vm.Stop(new StopCause(StopReason.EngineError, Message: $"no handler for exit {exit.Reason}", Cpu: cpu.Cpu.Index));
                return ExitAction.Stop;
        }
    }
}
