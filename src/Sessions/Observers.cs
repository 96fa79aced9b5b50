namespace Bunraku.Sessions;

/// <summary>The observers of one VM as one: calls all, and ends the VM when one of them throws. Thread-safe.</summary>
internal sealed class Observers(Vm vm, IReadOnlyList<IVmObserver> all)
{
    private readonly IVmObserver[] _all = [.. all];
    private delegate void Call<T>(IVmObserver observer, Vm vm, T argument) where T : allows ref struct;

    public void StateChanged(VmState state) => Each(nameof(IVmObserver.OnStateChanged), state, static (o, vm, state) => o.OnStateChanged(vm, state));

    public void Reset() => Each(nameof(IVmObserver.OnReset), 0, static (o, vm, _) => o.OnReset(vm));

    public void DiskFailed(DiskError error) => Each(nameof(IVmObserver.OnDiskError), error, static (o, vm, error) => o.OnDiskError(vm, error));

    public void Exit(in ExitRecord exit) => Each(nameof(IVmObserver.OnExit), exit, static (o, vm, exit) => o.OnExit(vm, exit));

    public void Output(ReadOnlySpan<byte> bytes) => Each(nameof(IVmObserver.OnOutput), bytes, static (o, vm, bytes) => o.OnOutput(vm, bytes));

    public void End(VmResult result) => Each(nameof(IVmObserver.OnEnd), result, static (o, vm, result) => o.OnEnd(vm, result));

    private void Each<T>(string method, T argument, Call<T> call) where T : allows ref struct
    {
        foreach (IVmObserver observer in _all)
        {
            try
            {
                call(observer, vm, argument);
            }
            catch (Exception e)
            {
                vm.Fail(new ObserverException(observer.GetType().Name, method, e));
            }
        }
    }
}

/// <summary>A delegate as an observer of exits.</summary>
internal sealed class ExitHook(Action<ExitRecord> hook) : IVmObserver
{
    public void OnExit(Vm vm, in ExitRecord exit) => hook(exit);
}

/// <summary>A guest's console whose output the observers see, too.</summary>
internal sealed class ObservedConsole(IGuestConsole console, Observers observers) : IGuestConsole
{
    public void Write(ReadOnlySpan<byte> bytes)
    {
        console.Write(bytes);
        observers.Output(bytes);
    }

    public void WriteError(ReadOnlySpan<byte> bytes)
    {
        console.WriteError(bytes);
        observers.Output(bytes);
    }

    public bool Throttle(int milliseconds) => console.Throttle(milliseconds);

    public void Release() => console.Release();
}
